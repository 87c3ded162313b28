/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What npdump does for every page, a batch of pages a call. No format, kernel or compression is known here: an engine
 * is a function of a shared library (npdump/codecs finds its address), one of a few ways to call it, and a context.
 *
 * Every buffer is checked before it is used, and every row where it is used: arrays may change while the interpreter's
 * lock is given up. What does not fit raises ValueError. The build needs no header but Python's (stable ABI, 3.11).
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define LANES 8 /* enough to hide the time of a multiplication */
#define MULTIPLIER UINT64_C(0x9E3779B97F4A7C15)
#define MAX_ARGUMENTS 10
#define PIECE_NBYTES (1 << 18) /* of what is read, to be looked at while it is in the cache */
#define PLACE_WORDS 3 /* of which the last is left alone */
#define SLOT_WORDS 4
enum zlib { Z_STREAM_END = 1, Z_FINISH = 4 };

typedef struct { int call, level; unsigned long long function, reset, context; } Engine;

/* A buffer, as what its items are, and how many. */
typedef struct { union { char *bytes; uint32_t *u32; uint64_t *u64; int64_t *i64; }; Py_ssize_t n; } Array;

/* The arguments of a call, in their order. */
typedef struct {
    Py_buffer views[MAX_ARGUMENTS];
    Array arrays[MAX_ARGUMENTS];
    long long numbers[MAX_ARGUMENTS];
    Py_ssize_t page_size, n_rows;
    int n_views;
    Engine engine;
} Call;

/* Give all buffers back; raise ValueError if there is a reason. */
static int release(Call *call, const char *why)
{
    while (call->n_views)
        PyBuffer_Release(&call->views[--call->n_views]);
    if (why)
        PyErr_SetString(PyExc_ValueError, why);
    return !why;
}

/* End a call: with an error if there is a reason, else with a number. */
static PyObject *done(Call *call, const char *why, long long number)
{
    return release(call, why) ? PyLong_FromLongLong(number) : NULL;
}

/* Take arguments: s a page's bytes, p whole pages, b and q arrays of items of 1 and 8 bytes, t i r those of 1, 4 and
   8 bytes which all have one length (capital letters: they are written), n a number, e an engine. */
static int take(Call *call, PyObject *args, const char *format)
{
    call->n_views = 0;
    call->n_rows = -1;
    if (PyTuple_Size(args) != (Py_ssize_t)strlen(format))
        return release(call, "another number of arguments is needed");
    for (int i = 0; format[i]; i++) {
        PyObject *object = PyTuple_GetItem(args, i);
        Array *array = &call->arrays[i];
        int kind = format[i] | 0x20, is_written = format[i] != kind, is_row = strchr("tir", kind) != NULL;
        Py_ssize_t size = strchr("qr", kind) ? 8 : kind == 'i' ? 4 : 1, n = kind == 'p' ? call->page_size : size;
        Py_buffer *view = &call->views[call->n_views];
        Engine *engine = &call->engine;

        if (kind == 'n' || kind == 's') {
            call->numbers[i] = PyLong_AsLongLong(object);
            if (PyErr_Occurred())
                return release(call, "a number is needed");
            if (kind == 'n')
                continue;
            call->page_size = (Py_ssize_t)call->numbers[i];
            if (call->numbers[i] < 64 || call->numbers[i] > 1 << 28 || call->page_size % 64)
                return release(call, "there is no such page size");
        } else if (kind == 'e') {
            if (!PyTuple_Check(object) || !PyArg_ParseTuple(object, "iKKKi", &engine->call, &engine->function,
                                                            &engine->reset, &engine->context, &engine->level))
                return release(call, "this is no engine");
        } else {
            if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | (is_written ? PyBUF_WRITABLE : 0)))
                return release(call, "a contiguous buffer is needed, and one that can be written for what is written");
            call->n_views++;
            array->bytes = view->buf;
            array->n = view->len / n;
            if (view->itemsize != size || (uintptr_t)view->buf % (kind == 'p' ? 8 : (size_t)size))
                return release(call, "an array has items of another size, or is not aligned");
            if (view->len % n)
                return release(call, "whole pages are needed");
            if (is_row && (call->n_rows < 0 ? (call->n_rows = array->n) : call->n_rows) != array->n)
                return release(call, "arrays differ in length");
        }
    }
    return 1;
}

/* A polynomial with the page's words as coefficients, and whether any is not 0. */
static uint64_t digest(const char *page, Py_ssize_t nbytes)
{
    const uint64_t *words = (const uint64_t *)page;
    uint64_t sums[LANES] = {0}, any = 0, step = 1, sum = 0, factor = 1;

    for (int lane = 0; lane < LANES; lane++)
        step *= MULTIPLIER;
    for (Py_ssize_t i = 0; i < nbytes / 8; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            any |= words[i + lane];
            sums[lane] = sums[lane] * step + words[i + lane];
        }
    for (int lane = 0; lane < LANES; lane++, factor *= MULTIPLIER)
        sum += sums[lane] * factor;
    return sum ? sum : any != 0;
}

/* digests(page_size, pages, keys) */
static PyObject *digests(PyObject *self, PyObject *args)
{
    Call call;
    Array *a = call.arrays, *pages = a + 1, *keys = a + 2;

    if (!take(&call, args, "spR"))
        return NULL;
    if (call.n_rows != pages->n)
        return done(&call, "a key for each page is needed", 0);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < pages->n; i++)
        keys->u64[i] = digest(pages->bytes + i * call.page_size, call.page_size);
    Py_END_ALLOW_THREADS
    return done(&call, NULL, 0);
}

/* look_up(keys, pfns, index, slots, originals): returns how many have the key of an earlier page
   A slot of the index is a key, the page that has it, and its place. */
static PyObject *look_up(PyObject *self, PyObject *args)
{
    Call call;
    Array *keys = call.arrays, *pfns = keys + 1, *index = keys + 2, *slots = keys + 3, *originals = keys + 4;
    Py_ssize_t n_found = 0, n_slots;
    int shift = 64;

    if (!take(&call, args, "rrQRR"))
        return NULL;
    n_slots = index->n / SLOT_WORDS;
    for (Py_ssize_t rest = n_slots; rest > 1; rest >>= 1, shift--);
    if (n_slots < 2 || n_slots & (n_slots - 1) || index->n % SLOT_WORDS)
        return done(&call, "the index must have a power of two slots", 0);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < keys->n; i++) {
        uint64_t key = keys->u64[i], number = key >> shift, *slot = &index->u64[SLOT_WORDS * number];
        int is_known;
        if (key && !slot[0])
            slot[0] = key, slot[1] = pfns->u64[i];
        is_known = key && slot[0] == key;
        slots->i64[i] = is_known ? (int64_t)number : -1;
        originals->i64[i] = is_known && slot[1] != pfns->u64[i] ? (int64_t)slot[1] : -1;
        n_found += originals->i64[i] >= 0;
    }
    Py_END_ALLOW_THREADS
    return done(&call, NULL, n_found);
}

/* Return whether a page equals the one that has a number, if that is among some; their numbers are ascending. */
static int equals(const char *page, int64_t pfn, const Array *pages, const Array *pfns, Py_ssize_t n)
{
    Py_ssize_t low = 0;
    for (Py_ssize_t high = pfns->n, middle; low < high;)
        pfns->i64[middle = (low + high) / 2] < pfn ? (low = middle + 1) : (high = middle);
    return low < pfns->n && pfns->i64[low] == pfn && !memcmp(page, pages->bytes + low * n, (size_t)n);
}

/* settle(page_size, pages, pfns, keys, others, other_pfns, slots, originals, rows): returns how many are to be stored
   These are the pages that have a key and don't equal their original, which is one of these or of the others; one that
   has the key alone loses its slot and its original. */
static PyObject *settle(PyObject *self, PyObject *args)
{
    Call call;
    Array *a = call.arrays, *pages = a + 1, *pfns = a + 2, *keys = a + 3, *others = a + 4, *other_pfns = a + 5,
          *slots = a + 6, *originals = a + 7, *rows = a + 8;
    Py_ssize_t n_stored = 0;

    if (!take(&call, args, "sprrpqRRR"))
        return NULL;
    if (call.n_rows != pages->n || other_pfns->n != others->n)
        return done(&call, "a number for each page is needed", 0);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0, n = call.page_size; i < pages->n; i++) {
        int64_t pfn = originals->i64[i];
        const char *page = pages->bytes + i * n;
        if (pfn >= 0 && (equals(page, pfn, others, other_pfns, n) || equals(page, pfn, pages, pfns, n)))
            continue;
        if (pfn >= 0)
            slots->i64[i] = originals->i64[i] = -1;
        if (keys->u64[i])
            rows->i64[n_stored++] = i;
    }
    Py_END_ALLOW_THREADS
    return done(&call, NULL, n_stored);
}

/* place(offset, size_shift, words, rows, slots, shared, index, places): returns the offset behind them
   A place is an offset and a word with a size. Pages of any bytes get the next one, shared ones that in their slot. */
static PyObject *place(PyObject *self, PyObject *args)
{
    Call call;
    Array *a = call.arrays, *words = a + 2, *rows = a + 3, *slots = a + 4, *shared = a + 5,
          *index = a + 6, *places = a + 7;
    int is_bad = 0;

    if (!take(&call, args, "nnrrrtQQ"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < rows->n; i++) {
        int64_t row = rows->i64[i], slot = slots->i64[i], n_slots = index->n / SLOT_WORDS, *own, *noted;
        uint32_t size = (uint32_t)(words->u64[i] >> (call.numbers[1] & 32));
        int is_shared = shared->bytes[i] != 0;
        if ((is_bad = row < 0 || row >= places->n / PLACE_WORDS || slot < is_shared - 1 || slot >= n_slots))
            break;
        own = &places->i64[PLACE_WORDS * row];
        if (size && !is_shared)
            own[0] = call.numbers[0], own[1] = words->i64[i], call.numbers[0] += size;
        noted = &index->i64[slot < 0 ? 0 : SLOT_WORDS * slot + 2];
        if (slot >= 0)
            memcpy(is_shared ? own : noted, is_shared ? noted : own, 16);
    }
    Py_END_ALLOW_THREADS
    return done(&call, is_bad ? "a row or slot is out of range" : NULL, call.numbers[0]);
}

/* How an engine's functions are called; npdump/codecs/_engines.py has the same numbers. */
enum call { COPY, WORK, PLAIN, LEVEL, CONTEXT, STREAM, STREAM32 };

/* What changes from page to page in zlib's z_stream, and in ISA-L's isal_zstream. */
typedef struct { const char *next_in; unsigned avail_in; long total_in; char *next_out; unsigned avail_out; } Stream;
typedef struct { const char *next_in; uint32_t avail_in, total_in; char *next_out; uint32_t avail_out; } Stream32;

typedef int Work(const char *, size_t, char *, size_t *, void *), Plain(const char *, size_t, char *, size_t *);
typedef size_t Level(void *, char *, size_t, const char *, size_t, int);
typedef size_t Unlevel(void *, char *, size_t, const char *, size_t);
typedef size_t Context(void *, const char *, size_t, char *, size_t);
typedef int Uncontext(void *, const char *, size_t, char *, size_t, size_t *);
typedef int Reset(void *), Run(void *, int), Run32(void *);

#define FUNCTION(type) ((type *)(uintptr_t)engine->function)

/* Run a stream over one page from its beginning; return the bytes that it made, 0 if it did not come to its end. */
static size_t stream(const Engine *engine, const char *from, size_t n, char *to, size_t room)
{
    Stream *stream = (Stream *)(uintptr_t)engine->context;

    ((Reset *)(uintptr_t)engine->reset)(stream);
    stream->next_in = from, stream->avail_in = (unsigned)n;
    stream->next_out = to, stream->avail_out = (unsigned)room;
    return FUNCTION(Run)(stream, Z_FINISH) == Z_STREAM_END ? (size_t)(stream->next_out - to) : 0;
}

static size_t stream32(const Engine *engine, const char *from, size_t n, char *to, size_t room)
{
    Stream32 *stream = (Stream32 *)(uintptr_t)engine->context;

    memcpy(stream, (void *)(uintptr_t)engine->reset, (size_t)engine->level);
    stream->next_in = from, stream->avail_in = (uint32_t)n;
    stream->next_out = to, stream->avail_out = (uint32_t)room;
    return FUNCTION(Run32)(stream) == 0 && !stream->avail_in ? (size_t)(stream->next_out - to) : 0;
}

/* Compress a page; return its size, 0 or anything that is not smaller than a page if it did not become smaller. */
static size_t compress_page(const Engine *engine, const char *from, size_t n, char *to, size_t room)
{
    void *context = (void *)(uintptr_t)engine->context;
    size_t made = room;

    switch (engine->call) {
    case WORK: return FUNCTION(Work)(from, n, to, &made, context) ? 0 : made;
    case PLAIN: return FUNCTION(Plain)(from, n, to, &made) ? 0 : made;
    case LEVEL: return FUNCTION(Level)(context, to, room, from, n, engine->level);
    case CONTEXT: return FUNCTION(Context)(context, from, n, to, n - 1);
    case STREAM: return stream(engine, from, n, to, room);
    case STREAM32: return stream32(engine, from, n, to, room);
    default: return 0;
    }
}

/* Uncompress a page; return whether it became exactly `room` bytes. */
static int uncompress_page(const Engine *engine, const char *from, size_t n, char *to, size_t room)
{
    void *context = (void *)(uintptr_t)engine->context;
    size_t made = room;

    switch (engine->call) {
    case COPY: return n == room && memcpy(to, from, n);
    case WORK: return !FUNCTION(Work)(from, n, to, &made, NULL) && made == room;
    case PLAIN: return !FUNCTION(Plain)(from, n, to, &made) && made == room;
    case LEVEL: return FUNCTION(Unlevel)(context, to, room, from, n) == room;
    case CONTEXT: return !FUNCTION(Uncontext)(context, from, n, to, room, &made) && made == room;
    case STREAM: return stream(engine, from, n, to, room) == room;
    default: return 0;
    }
}

/* compress(page_size, pages, rows, out, sizes, engine): returns the bytes made */
static PyObject *compress(PyObject *self, PyObject *args)
{
    Call call;
    Array *a = call.arrays, *pages = a + 1, *rows = a + 2, *out = a + 3, *sizes = a + 4;
    Py_ssize_t at = 0;
    int is_bad = 0;

    if (!take(&call, args, "sprBIe"))
        return NULL;
    /* Pages that cannot be made smaller grow: with LZO by 1/16 and 67 bytes, with snappy by 1/6 and 32. */
    Py_ssize_t n = call.page_size, room = n + n / 6 + 128;
    if (rows->n && (out->n < room || (out->n - room) / n < rows->n - 1))
        return done(&call, "an output is too small", 0);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < rows->n; i++) {
        int64_t row = rows->i64[i];
        if ((is_bad = row < 0 || row >= pages->n))
            break;
        size_t made = compress_page(&call.engine, pages->bytes + row * n, (size_t)n, out->bytes + at, (size_t)room);
        if (!made || made >= (size_t)n) /* pages that stay as they are may be moved up where they lie */
            memmove(out->bytes + at, pages->bytes + row * n, made = (size_t)n);
        sizes->u32[i] = (uint32_t)made;
        at += (Py_ssize_t)made;
    }
    Py_END_ALLOW_THREADS
    return done(&call, is_bad ? "a row is out of range" : NULL, at);
}

/* uncompress(page_size, data, starts, sizes, out, rows, good, engine): returns how many are not good */
static PyObject *uncompress(PyObject *self, PyObject *args)
{
    Call call;
    Array *a = call.arrays, *data = a + 1, *starts = a + 2, *sizes = a + 3, *out = a + 4, *rows = a + 5, *good = a + 6;
    Py_ssize_t n_bad = 0;
    int is_bad = 0;

    if (!take(&call, args, "sbrrPrTe"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < rows->n; i++) {
        int64_t row = rows->i64[i], start = starts->i64[i], n = sizes->i64[i];
        if ((is_bad = row < 0 || row >= out->n || start < 0 || start > data->n || n < 0 || n > data->n - start))
            break;
        good->bytes[i] = (char)uncompress_page(&call.engine, data->bytes + start, (size_t)n,
                                               out->bytes + row * call.page_size, (size_t)call.page_size);
        n_bad += !good->bytes[i];
    }
    Py_END_ALLOW_THREADS
    return done(&call, is_bad ? "a row or a place is out of range" : NULL, n_bad);
}

/* read_ranges(fd, offsets, sizes, out, page_size, keys): returns how many ranges were read whole
   Neighbours are read together; of as many pages as there are keys the digests are made while they are in the cache. */
static PyObject *read_ranges(PyObject *self, PyObject *args)
{
    Call call;
    Array *a = call.arrays, *offsets = a + 1, *sizes = a + 2, *out = a + 3, *keys = a + 5;
    Py_ssize_t at = 0, i = 0, n_keys = 0;
    int is_bad = 0;

    if (!take(&call, args, "nrrBsQ"))
        return NULL;
    if (keys->n > out->n / call.page_size || (uintptr_t)out->bytes % 8)
        return done(&call, "an output is too small, or is not aligned", 0);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t next; i < offsets->n; i = next) {
        uint64_t n = 0, start = offsets->u64[i];
        for (next = i; next < offsets->n && offsets->u64[next] == start + n; n += sizes->u64[next++])
            if ((is_bad = sizes->i64[next] < 0 || sizes->i64[next] > out->n - at - (Py_ssize_t)n))
                goto end;
        for (Py_ssize_t piece; n; n -= (uint64_t)piece, start += (uint64_t)piece, at += piece) {
            piece = n < PIECE_NBYTES ? (Py_ssize_t)n : PIECE_NBYTES;
            if (pread((int)call.numbers[0], out->bytes + at, (size_t)piece, (off_t)start) != piece)
                goto end;
            for (; n_keys < keys->n && (n_keys + 1) * call.page_size <= at + piece; n_keys++)
                keys->u64[n_keys] = digest(out->bytes + n_keys * call.page_size, call.page_size);
        }
    }
end:
    Py_END_ALLOW_THREADS
    return done(&call, is_bad ? "the output is too small" : NULL, i);
}

#define METHOD(name) {#name, name, METH_VARARGS, NULL}
static PyMethodDef methods[] = {METHOD(digests), METHOD(look_up), METHOD(settle), METHOD(place), METHOD(compress),
                                METHOD(uncompress), METHOD(read_ranges), {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "npdump._core", .m_doc = "interface 4", .m_methods = methods, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&module);
}
