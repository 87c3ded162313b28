# SPDX-License-Identifier: GPL-2.0-or-later
"""What one can ask of a dump: the kernel log, --vtop, info, explain, --mem-usage, completion."""

from __future__ import annotations

import json
import re
import subprocess

import numpy as np
import pytest

from tests import harness
from tests.readers import elf as elf_reader

NAMES = ("x86_64-5.10", "x86_64-6.1", "x86_64-6.1-la57", "x86_64-6.12", "x86_64-7.2")

CALLER = r"^(\[ *\d+\.\d{6}\] )\[ *[TC]\d+\] "


def vmcoreinfo(path):
    """The dump's VMCOREINFO, read by the tests' own reader."""
    text = elf_reader.ElfDump(path).vmcoreinfo.decode()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_log_of_a_split_dump(distilled, tmp_path):
    """A part is read, never overwritten, whatever its place on the command line."""
    vmcore, parts, log = distilled("x86_64-6.1"), [tmp_path / "part1", tmp_path / "part2"], tmp_path / "log"
    harness.run_ok("--split", "-l", "-d", "31", vmcore, *parts)
    before = [part.read_bytes() for part in parts]
    wanted = harness.run_ok("--dump-dmesg", vmcore).stdout
    for paths in (parts, parts[::-1]):
        assert harness.run_ok("-f", "--dump-dmesg", *paths).stdout == wanted
    harness.run_ok("--dump-dmesg", *parts, log)
    assert log.read_text(errors="surrogateescape") == wanted
    other = tmp_path / "other"
    harness.run_ok("-l", "-d", "31", vmcore, other)
    for paths in ([vmcore, other], [other, parts[0]], [*parts, other], [parts[0], vmcore]):
        refused = harness.run("-f", "--dump-dmesg", *paths)
        assert refused.returncode == 1
        assert "parts of one split" in refused.stderr or "isn't a part" in refused.stderr, refused.stderr
    assert [part.read_bytes() for part in parts] == before


@pytest.mark.parametrize("option", ["--dump-dmesg", "--partial-dmesg"])
@pytest.mark.parametrize("name", NAMES)
def test_log_is_makedumpfiles(distilled, tool, tmp_path, name, option):
    vmcore, wanted = distilled(name), tmp_path / "wanted"
    subprocess.run([tool("makedumpfile"), "--dump-dmesg", option, vmcore, wanted], check=True, capture_output=True)
    got, wanted = harness.run_ok(option, vmcore).stdout, wanted.read_text(encoding="latin-1")
    assert len(got.splitlines()) > 300
    if not re.search(CALLER, wanted, re.MULTILINE):
        # makedumpfile prints callers since 1.7.6.
        assert len(re.findall(CALLER, got, re.MULTILINE)) > 300
        got = re.sub(CALLER, r"\1", got, flags=re.MULTILINE)
        got, wanted = (re.sub("^ +", "", text, flags=re.MULTILINE) for text in (got, wanted))
    assert got == wanted


def test_log_goes_to_a_file(distilled, tmp_path):
    output = tmp_path / "log"
    result = harness.run_ok("--dump-dmesg", distilled("x86_64-6.1"), output)
    assert f"The dmesg log is saved to {output}." in result.stdout
    assert "Linux version 6.1" in output.read_text()
    assert output.stat().st_mode & 0o777 == 0o600
    assert harness.run("--dump-dmesg", distilled("x86_64-6.1"), output).returncode == 1
    harness.run_ok("--dump-dmesg", "-f", distilled("x86_64-6.1"), output)


def test_a_log_with_debugging_messages_tells_the_release(distilled, tool, tmp_path):
    """kdump-save of openSUSE reads OSRELEASE and CRASHTIME there; makedumpfile prints these lines, among others."""
    vmcore, options = distilled("x86_64-6.1"), ("--message-level", "8", "--dump-dmesg")
    wanted = subprocess.run(
        [tool("makedumpfile"), *options, vmcore, tmp_path / "wanted"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    got = harness.run_ok(*options, vmcore, tmp_path / "got").stdout.splitlines()
    loads = [line for line in got if line.startswith("LOAD[")]
    assert loads == [line for line in wanted if line.startswith("LOAD[")] != []
    at = got.index("VMCOREINFO   :")
    facts = [line for line in got[at + 1 :] if line.startswith("  ")]
    assert facts == [f"  {key}={value}" for key, value in vmcoreinfo(vmcore).items()]
    assert {line for line in facts if "OSRELEASE" in line or "CRASHTIME" in line} <= set(wanted)
    debug = harness.run_ok("-D", "--dry-run", "-d31", vmcore).stdout.splitlines()
    assert set(loads + facts) <= set(debug)
    theirs = subprocess.run(
        [tool("makedumpfile"), "-D", "--dry-run", "-d31", vmcore, tmp_path / "x"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.replace("\r", "\n")
    for name in ("phys_base", "page_offset", "max_mapnr"):
        pattern = rf"^{name} *: *([0-9a-f]+)"
        assert re.search(pattern, "\n".join(debug), re.MULTILINE)[1] == re.search(pattern, theirs, re.MULTILINE)[1]


def test_log_as_json(distilled):
    found = json.loads(harness.run_ok("--dump-dmesg", "--json", distilled("x86_64-6.12")).stdout)
    assert found["generation"] == "lockless" and found["doubts"] == []
    numbers = [record["sequence"] for record in found["records"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert found["records"][-1]["nanoseconds"] >= found["records"][0]["nanoseconds"]


@pytest.mark.parametrize("name", NAMES)
def test_vtop_of_the_kernel_image(distilled, name):
    """phys_base says where the image is; the page tables, which --vtop walks, must agree."""
    keys = vmcoreinfo(distilled(name))
    vaddr = int(keys["SYMBOL(init_uts_ns)"], 16)
    paddr = vaddr - 0xFFFFFFFF80000000 + int(keys["NUMBER(phys_base)"])
    result = harness.run_ok("--vtop", f"{vaddr:#x}", distilled(name))
    assert f"{vaddr:16x}  {paddr:x}\n" in result.stdout
    found = json.loads(harness.run_ok("--vtop", f"{vaddr:#x}", "--json", distilled(name)).stdout)
    assert found == {"vaddr": hex(vaddr), "paddr": hex(paddr), "pfn": paddr >> 12, "is_dumped": True}


def test_vtop_of_what_is_not_mapped(distilled):
    result = harness.run("--vtop", "0x1000", distilled("x86_64-6.1"))
    assert result.returncode == 1 and result.stdout == ""
    assert "isn't mapped" in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_info(distilled, name):
    vmcore = distilled(name)
    keys = vmcoreinfo(vmcore)
    found = json.loads(harness.run_ok("info", "--json", vmcore).stdout)
    assert found["release"] == keys["OSRELEASE"]
    assert found["build_id"] == keys["BUILD-ID"]
    assert found["machine"] == "x86_64"
    assert int(found["kaslr_offset"], 16) == int(keys["KERNELOFFSET"], 16)
    assert "sysrq triggered crash" in found["panic"]
    assert found["command_line"].startswith("console=ttyS0")
    reference = harness.reference(name)
    assert found["n_ram"] == int(reference.bitmap1.sum())
    assert found["missing"] == []
    text = harness.run_ok("info", vmcore).stdout
    assert keys["OSRELEASE"] in text and found["panic"] in text


def test_info_has_the_kernels_own_clock_and_counts(corpus):
    """The last line of the log may be much older than the crash; init made this one, at once before it."""
    found = json.loads(harness.run_ok("info", "--json", corpus("x86_64-7.2-512M")).stdout)
    assert found["uptime_seconds"] > found["log_seconds"] > found["uptime_seconds"] - 1
    assert found["panic_task"] == "init, PID 1, on CPU 0"
    assert 20 < found["n_tasks"] < 1000
    assert [note["kind"] for note in found["notes"] if note["name"] == "CORE"] == ["NT_PRSTATUS"] * found["n_cpus"]


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_info_lists_segments_when_asked(distilled, verbose):
    vmcore = distilled("x86_64-6.1")
    text = harness.run_ok("info", *verbose, vmcore).stdout
    segments = [hex(segment.vaddr) for segment in elf_reader.ElfDump(vmcore).loads]
    assert all(vaddr in text for vaddr in segments) == bool(verbose)
    size = vmcore.stat().st_size
    assert f"MiB ({size} bytes)" in text


@pytest.mark.parametrize("form", ["flattened", "gzip", "zstd"])
def test_info_says_what_wraps_a_dump(distilled, tmp_path, form):
    vmcore, dump = distilled("x86_64-6.1"), tmp_path / "dump"
    with dump.open("wb") as file:
        if form == "flattened":
            harness.run_ok("-F", "-l", "-d31", vmcore, stdout=file)
        else:
            harness.run_ok("-l", "-d31", vmcore, tmp_path / "small")
            subprocess.run([form, "-1c", tmp_path / "small"], stdout=file, check=True)
    found = json.loads(harness.run_ok("info", "--json", dump).stdout)
    assert found["wrapping"] == [form]
    assert found["file_nbytes"] == dump.stat().st_size != found["unpacked_nbytes"]
    assert f", {form}\n" in harness.run_ok("info", dump).stdout


def test_info_is_a_word_only_in_front(tmp_path, distilled):
    """A vmcore that is called info can still be filtered, as ./info or after an option."""
    (tmp_path / "info").symlink_to(distilled("x86_64-6.1"))
    for arguments in (("./info", "out1"), ("-d31", "info", "out2")):
        harness.run_ok(*arguments, "--dry-run", cwd=tmp_path)
    asked = harness.run_ok("info", "info", cwd=tmp_path)
    assert asked.stdout.startswith("file            info\n")


def test_a_command_that_is_misspelt(distilled, tmp_path):
    result = harness.run("inof", distilled("x86_64-6.1"), cwd=tmp_path)
    assert result.returncode == 1 and "did you mean npdump info?" in result.stderr
    (tmp_path / "inof").write_text("")
    assert "did you mean" not in harness.run("inof", tmp_path / "out", cwd=tmp_path).stderr


def test_info_of_what_is_no_dump(tmp_path):
    path = tmp_path / "text"
    path.write_text("nothing of the kind\n")
    result = harness.run("info", path)
    assert result.returncode == 1
    said = [line for line in result.stderr.splitlines() if line not in ("", "npdump Failed.")]
    assert said == [f"npdump: {path}: isn't a vmcore: it begins with 6e 6f 74 68 69 6e 67 20, not with an ELF header"]


@pytest.mark.parametrize("name", ["x86_64-5.10", "x86_64-6.12", "x86_64-7.2"])
def test_explanations_are_the_references(distilled, name):
    """At the levels at which a page is said to go, makedumpfile leaves it out, and at no other."""
    vmcore = distilled(name)
    reference = harness.reference(name)
    kept = np.array([reference.kept(level) for level in range(0, 32, 2)])
    _, firsts = np.unique(kept[:, reference.bitmap1[: kept.shape[1]]], axis=1, return_index=True)
    pfns = np.flatnonzero(reference.bitmap1[: kept.shape[1]])[firsts]
    assert len(pfns) >= 4
    for pfn in pfns.tolist():
        story = json.loads(harness.run_ok("explain", "--json", vmcore, f"pfn:{pfn}").stdout)
        told = [level for level in map(int, story["class_by_level"]) if level % 2 == 0]
        assert told == [2 * i for i in np.flatnonzero(~kept[:, pfn])], f"page {pfn:#x}"


def test_explain_names_flags_and_ways_to_name_a_page(distilled):
    vmcore = distilled("x86_64-6.12")
    keys = vmcoreinfo(vmcore)
    vaddr = int(keys["SYMBOL(init_uts_ns)"], 16)
    paddr = vaddr - 0xFFFFFFFF80000000 + int(keys["NUMBER(phys_base)"])
    stories = [
        json.loads(harness.run_ok("explain", "--json", vmcore, text).stdout)
        for text in (f"{paddr >> 12}", f"{paddr >> 12:#x}", f"{vaddr:#x}", f"paddr:{paddr:#x}", f"vaddr:{vaddr:#x}")
    ]
    assert {story["pfn"] for story in stories} == {paddr >> 12}
    text = harness.run_ok("explain", vmcore, f"{vaddr:#x}").stdout
    assert re.search(r"left out\s+at no level", text)


def test_explain_takes_symbols_ranges_and_several_pages(distilled):
    vmcore = distilled("x86_64-6.12")
    vaddr = int(vmcoreinfo(vmcore)["SYMBOL(init_uts_ns)"], 16)
    own = json.loads(harness.run_ok("explain", "--json", vmcore, f"{vaddr + 0x1000:#x}").stdout)
    arguments = ("init_uts_ns+0x1000", f"{own['pfn']}-{own['pfn'] + 2}", "_stext")
    found = json.loads(harness.run_ok("explain", "--json", vmcore, *arguments).stdout)
    assert [page["pfn"] for page in found[:4]] == [own["pfn"], *range(own["pfn"], own["pfn"] + 3)]
    assert found[0]["paddr"] == hex(own["pfn"] << 12) and len(found) == 5
    assert len(harness.run_ok("explain", vmcore, *arguments).stdout.split("\n\n")) == 5
    for wrong in ("no_such_symbol", "5-4", "0-0xffff"):
        result = harness.run("explain", vmcore, wrong)
        assert result.returncode == 1 and result.stderr.count("npdump: ") == 1, result.stderr


@pytest.mark.parametrize("command", ["info", "explain", "--mem-usage", "--dump-dmesg", "stats", "map", "compare"])
def test_questions_have_help_of_their_own(command):
    text = harness.run_ok(command, "--help").stdout
    assert text.startswith("usage: npdump") and command.lstrip("-") in text.splitlines()[0]
    assert "--splitblock-size" not in text and len(text.splitlines()) < 50
    if command == "explain":
        assert all(prefix in text for prefix in ("pfn:", "vaddr:", "paddr:"))


@pytest.mark.parametrize("text", ["", "x", "-1", "pfn:", "0x10000000000000000", "pfn:0xfffffff"])
def test_explain_refuses_what_is_no_page(distilled, text):
    result = harness.run("explain", "--", distilled("x86_64-6.12"), text)
    assert result.returncode == 1 and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["x86_64-6.1", "x86_64-7.2"])
def test_mem_usage_adds_up(distilled, name):
    """The table must say what --show-stats says at level 31, and hold all pages."""
    vmcore = distilled(name)
    usage = json.loads(harness.run_ok("--mem-usage", "--json", vmcore).stdout)
    stats = harness.run_ok("--dry-run", "--show-stats", "-d31", vmcore).stdout
    pairs = re.findall(r"^(.*?)\s*: (0x[0-9a-f]+)$", stats, re.MULTILINE)
    numbers = {label.strip(): int(number, 16) for label, number in pairs}
    assert usage["n_zero"] == numbers["Pages filled with zero"]
    assert usage["n_cache"] == numbers["Non-private cache pages"]
    assert usage["n_cache_private"] == numbers["Private cache pages"]
    assert usage["n_user"] == numbers["User process data pages"]
    assert usage["n_free"] == numbers["Free pages"]
    assert usage["n_kernel"] == numbers["Remaining pages"]
    assert usage["n_ram"] == numbers["Original pages"]
    rows = harness.run_ok("--mem-usage", vmcore).stdout
    rows_npages = [int(number) for number in re.findall(r"^[A-Z_]+\t+(\d+) .*\t(?:yes|no)\t", rows, re.MULTILINE)]
    assert len(rows_npages) == 7 and sum(rows_npages) == usage["n_data"]


SCHEMA = json.loads((harness.REPOSITORY / "docs" / "answers.schema.json").read_text())
JSON_TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip


def assert_valid(value, schema, where="$"):
    """Check a value by as much of JSON Schema as the file uses."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        schema = schema["anyOf"][1 if value is None else 0]
        return assert_valid(value, schema, where)
    if "enum" in schema:
        assert value in schema["enum"], where
        return None
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(isinstance(value, JSON_TYPES[kind]) for kind in kinds), f"{where} is {value!r}"
    if isinstance(value, str):
        assert re.search(schema.get("pattern", ""), value), f"{where} is {value!r}"
    elif isinstance(value, list):
        for i, item in enumerate(value):
            assert_valid(item, schema["items"], f"{where}[{i}]")
    elif isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        assert set(schema.get("required", ())) <= set(value), where
        assert others or set(value) <= set(known), f"{where}: {set(value) - set(known)}"
        for name, item in value.items():
            if name in known or isinstance(others, dict):
                assert_valid(item, known.get(name, others), f"{where}.{name}")
    return None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("report", ["--dry-run", "--show-stats", "--json", "--message-level", "4", "-d31"]),
        ("info", ["info", "--json"]),
        ("explain", ["explain", "--json", "{0}", "0x100"]),
        ("vtop", ["--json", "--vtop", "{1}"]),
        ("check_config", ["--json", "--check-config", "--config", f"{harness.FIXTURES}/erase/symbols.conf"]),
        ("mem_usage", ["--mem-usage", "--json"]),
        ("dmesg", ["--dump-dmesg", "--json"]),
        ("stats", ["stats", "--json"]),
        ("stats", ["stats", "--json", "--by", "level"]),
        ("check", ["check", "--json"]),
        ("compare", ["compare", "--json", "{0}", "{2}"]),
    ],
)
def test_answers_fit_their_schema(name, arguments, distilled):
    vmcore, other = str(distilled("x86_64-6.1")), str(distilled("x86_64-6.12"))
    vaddr = "0x" + vmcoreinfo(vmcore)["SYMBOL(init_uts_ns)"]
    arguments = [argument.format(vmcore, vaddr, other) for argument in arguments]
    arguments += [] if vmcore in arguments else [vmcore]
    # Two dumps that differ are exit code 1; a page of a distilled dump may be one that no program can read.
    answer = harness.run(*arguments).stdout if name in ("compare", "check") else harness.run_ok(*arguments).stdout
    assert_valid(json.loads(answer), SCHEMA["$defs"][name])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, tool, tmp_path):
    script = tmp_path / "script"
    script.write_text(harness.run_ok("completion", shell).stdout)
    for flag in ("dump-dmesg", "vtop", "num-threads"):
        assert flag in script.read_text()
    subprocess.run([tool(shell), "-n", script], check=True)


def test_bash_completes(tool, tmp_path):
    script = tmp_path / "script"
    script.write_text(harness.run_ok("completion", "bash").stdout)
    ask = f'. {script}; COMP_WORDS=(npdump --mem); COMP_CWORD=1; _npdump; echo "${{COMPREPLY[@]}}"'
    result = subprocess.run([tool("bash"), "-c", ask], check=True, capture_output=True, text=True)
    assert result.stdout == "--mem-usage\n"


@pytest.mark.parametrize("is_flattened", [False, True])
def test_questions_to_a_filtered_dump(distilled, tmp_path, is_flattened):
    """What was filtered answers as the vmcore does; the pages that aren't in it are in no row of --mem-usage."""
    vmcore, dump = distilled("x86_64-6.1"), tmp_path / "dump"
    if is_flattened:
        with dump.open("wb") as file:
            harness.run_ok("-F", "-l", "-d", "30", vmcore, stdout=file)
    else:
        harness.run_ok("-l", "-d", "30", vmcore, dump)
    assert harness.run_ok("--dump-dmesg", dump).stdout == harness.run_ok("--dump-dmesg", vmcore).stdout
    facts = json.loads(harness.run_ok("info", "--json", dump).stdout)
    assert (facts["dump_level"], facts["codec"]) == (30, "lzo")
    before, after = (json.loads(harness.run_ok("--mem-usage", "--json", path).stdout) for path in (vmcore, dump))
    assert before["n_user"] > 0
    left_out = dict.fromkeys(("n_cache", "n_cache_private", "n_user", "n_free", "n_unsafe"), 0)
    n_data = before["n_data"] - sum(before[name] for name in left_out)
    assert after == before | left_out | {"n_data": n_data}
