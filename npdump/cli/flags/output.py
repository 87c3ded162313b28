# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written, and where: dump levels, compressions, formats, files."""

from npdump.cli.commands import MAKE_DUMPS
from npdump.cli.flags._declare import Rule, flag, integer, levels, size

MAX_SPLITBLOCK_KIB = 1 << 36
ZLIB_ENGINES = ("isal", "libdeflate", "zlib")

TITLE = "output"

FLAGS = (
    flag(
        "-d",
        dest="dump_level",
        metavar="LEVEL",
        type=levels,
        default=(0,),
        help="leave out pages by type; LEVEL is the sum of 1 (pages filled with zero), 2 (page cache without private "
        "data), 4 (all page cache), 8 (user data) and 16 (free pages); 0, the default, leaves out none of these; pages "
        "that must not be read go at every level: broken (hwpoison) and offline ones (given back to the hypervisor); "
        "with a list, as 11,31, the next level is tried when the output doesn't fit",
    ),
    flag("-c", dest="codec", action="store_const", const="zlib", default="raw", help="compress each page with zlib"),
    flag("-l", dest="codec", action="store_const", const="lzo", default="raw", help="compress each page with LZO"),
    flag(
        "-p", dest="codec", action="store_const", const="snappy", default="raw", help="compress each page with snappy"
    ),
    flag("-z", dest="codec", action="store_const", const="zstd", default="raw", help="compress each page with zstd"),
    flag(
        "-E",
        dest="format",
        action="store_const",
        const="elf",
        default="kdump",
        help="make an ELF core instead of the kdump-compressed format; it cannot be compressed",
    ),
    flag(
        "-F",
        dest="flatten",
        action="store_true",
        help="write the dump to the standard output, in the flattened format, and all messages to the standard error",
    ),
    flag(
        "--lz4",
        action="store_true",
        help="with -F, compress the stream as a whole, for slow links; -R unpacks it, and so does lz4 -d",
    ),
    flag(
        "-R",
        dest="rearrange",
        action="store_true",
        help="make DUMPFILE of a dump in the flattened format that is read from the standard input",
    ),
    flag("--split", action="store_true", help="make several DUMPFILEs, with about the same number of pages each"),
    flag(
        "--splitblock-size",
        dest="splitblock_kib",
        metavar="KIB",
        type=integer(1, MAX_SPLITBLOCK_KIB),
        help="with --split, divide memory at multiples of so many KiB (a multiple of 64 pages; by default 64 pages)",
    ),
    flag(
        "--reassemble", action="store_true", help="make one DUMPFILE of all parts of a split dump, given in any order"
    ),
    flag(
        "-L",
        dest="limit_nbytes",
        metavar="SIZE",
        type=size,
        help="write at most SIZE bytes; the letter K, M, G or T multiplies by 2^10, 2^20, 2^30 or 2^40; a dump that "
        "needs more is incomplete, with every page that fits, unless -d names a further level",
    ),
    flag("-f", dest="force", action="store_true", help="overwrite DUMPFILE if it exists"),
    flag(
        "--zlib-engine",
        choices=ZLIB_ENGINES,
        metavar="ENGINE",
        help="what compresses for -c: isal (ISA-L: three times as fast as zlib, files 3 percent larger; "
        "a few bytes may differ from run to run), libdeflate (twice as fast) or zlib (the same bytes as makedumpfile "
        "with the same zlib); by default the first that is installed",
    ),
    flag(
        "--codec-level",
        metavar="LEVEL",
        type=integer(-2, 15),
        help="how hard to compress: one of liblzo2's variants 11, 12 (the default), 1 (makedumpfile's) and 15; zstd's "
        "levels -2 to 3; zlib's 0 and 1, of which 0 is twice as fast with ISA-L, and makes files a fifth larger; the "
        "default of zstd and zlib is 1",
    ),
    flag(
        "--no-share",
        dest="share",
        action="store_false",
        help="store pages that equal an earlier one once more, as makedumpfile does; by default they share its place",
    ),
    flag(
        "-e",
        dest="drop_memmap",
        action="store_true",
        help="leave out the struct pages of pages that are left out, too: most of what large machines' dumps hold; "
        "what asks for these (crash: kmem) fails then",
    ),
    flag("--dry-run", action="store_true", help="do everything but write DUMPFILE"),
)

RULES = (
    Rule(
        lambda o: o.format == "elf" and o.codec != "raw",
        "-E with {codec} compression: the ELF format cannot hold compressed pages",
    ),
    Rule(
        lambda o: o.zlib_engine is not None and o.codec != "zlib",
        "--zlib-engine without -c: nothing is compressed with zlib",
    ),
    Rule(
        lambda o: o.codec_level is not None and o.codec == "raw",
        "--codec-level without -c, -l, -p or -z: nothing is compressed",
    ),
    Rule(
        lambda o: o.split and (o.format == "elf" or o.flatten or o.reassemble),
        "--split with -E, -F or --reassemble: only kdump-compressed dumps are split, into files",
    ),
    Rule(
        lambda o: o.lz4 and not o.flatten,
        "--lz4 without -F: only a stream is compressed as a whole",
    ),
    Rule(
        lambda o: o.split and not o.dry_run and len(o.dumpfiles) < 2,
        "--split: two DUMPFILEs at least are needed",
    ),
    Rule(
        lambda o: o.reassemble and (o.dump_level or o.codec != "raw" or o.format == "elf"),
        "--reassemble with -d, -c, -l, -p, -z or -E: it copies pages as they are; filter the parts",
    ),
    Rule(
        lambda o: o.reassemble and len(o.vmcores) < 2,
        "--reassemble: two parts at least and the DUMPFILE are needed",
    ),
    Rule(
        lambda o: o.command in MAKE_DUMPS and "-" in o.dumpfiles,
        "DUMPFILE -: only the flattened format goes to the standard output: give -F and no DUMPFILE",
    ),
    Rule(
        lambda o: any(path.startswith(("http://", "https://")) for path in (*o.dumpfiles, o.output_folder or "")),
        "DUMPFILE https://: web servers are only read from: give a file, or an object by s3://, gs:// or az://",
    ),
)
