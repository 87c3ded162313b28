# make demo and make test need git, make, gcc and python3 (3.11 or later), and root or sudo for what else is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# So that Python finds the package, and not the clone, in the folder above a clone that is called npdump.
EDITABLE := --config-settings editable_mode=compat --editable
FIXTURE := x86_64-6.1
DEMO := build/demo

.DELETE_ON_ERROR:
.PHONY: help demo test quick lint lint-ruff lint-mypy lint-imports bench sweep faults deaths openers fleet-trial leaks fuzz man docs dist deb rpm zipapp test-guests test-scripts clean core-asan

help:
	@echo "make demo   filter a real dump of Linux 6.1 and print what was left out"
	@echo "make test   run all tests"
	@echo "make quick  run those that depend most on Python and its libraries, in a minute"
	@echo "make lint   run ruff, mypy and import-linter"
	@echo "make bench  measure the speed"
	@echo "make sweep  change every value of every VMCOREINFO: what is lost must be said (long)"
	@echo "make openers  damage DUMP=vmcore, and ask crash, drgn, gdb and libkdumpfile (VMLINUX=vmlinux for crash; long)"
	@echo "make faults make every call on files fail and kill npdump: nothing may look whole and not be (long)"
	@echo "make fuzz   damage files of each kind that npdump reads, for SECONDS=660"
	@echo "make deaths kill npdump in npdump-collect, and take memory, room and disk from it (root, strace; long)"
	@echo "make test-guests  let Debian guests crash in QEMU and look at what they saved (root, mmdebstrap; very long)"
	@echo "make test-scripts run the scripts of Debian, Fedora and openSUSE with npdump as makedumpfile (root, network, sshd)"
	@echo "make leaks  put canaries into a guest, let it crash, and count those that are left (root, gcc, busybox, QEMU, KERNEL=)"
	@echo "make fleet-trial  have a thousand dumps read by workers that are killed, and one dump made by several (long)"
	@echo "make docs   make the documentation in build/docs"
	@echo "make man    make man/npdump.8"
	@echo "make dist   make the source archive and the wheel in dist/"
	@echo "make deb    make the Debian package in build/deb/ (dpkg-buildpackage and what debian/control names)"
	@echo "make rpm    make the RPM package in build/rpm/ (rpmbuild)"
	@echo "make zipapp make build/npdump.pyz: all of npdump in one file, which needs Python and NumPy"
	@echo "make core-asan  run the compiled core with damaged pages under AddressSanitizer"
	@echo "make clean  remove everything that was made, $(VENV) too"

demo: $(VENV)/.npdump $(DEMO)/vmcore
	$(BIN)/npdump -f -l -d 31 --show-stats $(DEMO)/vmcore $(DEMO)/dumpfile
	@ls -l $(DEMO)
	@echo
	@echo "That was $(BIN)/npdump -f -l -d 31 --show-stats $(DEMO)/vmcore $(DEMO)/dumpfile"
	@echo "Next: ask the dump what crashed:   $(BIN)/npdump info $(DEMO)/dumpfile"
	@echo "      or what a page was used for: $(BIN)/npdump explain $(DEMO)/vmcore 0x2000"
	@echo "      or install it:               $(PYTHON) -m pip install ."

test: $(VENV)/.test
	@echo "npdump: running all tests on all CPUs: dumps are built, filtered and read back by other programs if they are"
	@echo "installed. That takes some five minutes on two CPUs, more the first time, and some GB in $${TMPDIR:-/tmp},"
	@echo "where dumps stay for the next time (NPDUMP_TEST_CACHE names another folder)."
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# What other Pythons and other releases of libraries could change, in about a minute: make quick VENV=… PYTHON=…
QUICK := $(addsuffix .py,arrays bitmap blocks codecs dedup facts gate options paging policy report selfcheck split table) \
	levels.py::test_all_levels_keep_what_the_reference_keeps levels.py::test_every_format_has_the_same_pages \
	machines.py::test_all_levels_keep_what_the_reference_keeps

quick: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(QUICK:%=tests/test_%) npdump

lint: lint-ruff lint-mypy lint-imports

lint-ruff: $(VENV)/.dev
	$(BIN)/ruff check --output-format concise
	$(BIN)/ruff format --check --quiet

lint-mypy: $(VENV)/.dev
	$(BIN)/mypy

lint-imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.test
	$(BIN)/python -m tests.bench $(BENCH)

faults: $(VENV)/.test
	$(BIN)/python -m tests.faults

deaths: $(VENV)/.test
	$(BIN)/python -m tests.deaths

openers: $(VENV)/.test
	$(BIN)/python -m tests.openers $(if $(VMLINUX),--vmlinux $(VMLINUX),--programs drgn,gdb,libkdumpfile) $(DUMP)

test-guests: deb $(VENV)/.test
	$(BIN)/python -m tests.guests --package build/deb/npdump_$(VERSION)_*.deb --folder build/guests

KDUMP_SCRIPTS ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/npdump-tests/kdump-scripts
test-scripts: $(VENV)/.test
	tests/fetch-kdump-scripts $(KDUMP_SCRIPTS)
	NPDUMP_KDUMP_SCRIPTS=$(KDUMP_SCRIPTS) $(BIN)/python -m pytest -rs tests/test_kdump_scripts.py

KERNEL ?= build/kernel
leaks: $(VENV)/.test
	$(BIN)/python -m tests.leaks --kernel $(KERNEL) --folder build/leaks

fleet-trial: $(VENV)/.test
	$(PIP) $(EDITABLE) '.[stores]'
	$(BIN)/python -m tests.fleet_trial
	$(BIN)/python -m tests.fleet_trial --parts 64G

SECONDS ?= 660
fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

sweep: $(VENV)/.test
	$(BIN)/python -m tests.sweep -n $$(nproc)

core-asan: build/asan/_core.so $(VENV)/.npdump
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m tests.core_asan $<

build/asan/_core.so: npdump/_core.c $(VENV)/.npdump
	@mkdir -p $(@D)
	gcc -std=c11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Werror -shared -fPIC \
	    -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	    -I"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')" $< -o $@

man: man/npdump.8

docs: $(VENV)/.dev
	$(PIP) --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs

dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist

# Built in a copy of what git knows, with the manual page, which Debian has no generator for; by the system's Python.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' npdump/__init__.py)
SYSTEM_PATH := PATH=/usr/sbin:/usr/bin:/sbin:/bin

deb: man/npdump.8
	rm -rf build/deb
	mkdir -p build/deb/npdump-$(VERSION)/man
	git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract --directory=build/deb/npdump-$(VERSION)
	cp man/npdump.8 build/deb/npdump-$(VERSION)/man/
	cd build/deb/npdump-$(VERSION) && env -u PYTHONDONTWRITEBYTECODE $(SYSTEM_PATH) dpkg-buildpackage -b -us -uc
	@ls -l build/deb/*.deb

# --nodeps: the names in the file are those of Fedora and openSUSE; what is missing ends the build all the same.
rpm: man/npdump.8
	rm -rf build/rpm
	mkdir -p build/rpm/SOURCES
	(git ls-files --cached --others --exclude-standard; echo man/npdump.8) | \
	    tar --create --gzip --files-from=- --transform='s|^|npdump-$(VERSION)/|' --file=build/rpm/SOURCES/npdump-$(VERSION).tar.gz
	$(SYSTEM_PATH) rpmbuild -bb --nodeps --define "_topdir $(CURDIR)/build/rpm" --define "npdump_version $(VERSION)" \
	    rpm/npdump.spec
	@find build/rpm/RPMS -name '*.rpm' -exec ls -l {} +

zipapp: build/npdump.pyz

build/npdump.pyz: tools/pack_zipapp.py $(VENV)/.npdump $(shell git ls-files npdump)
	$(BIN)/python tools/pack_zipapp.py $@

clean:
	rm -rf $(VENV) build dist man/npdump.8 completions npdump.egg-info

$(DEMO)/vmcore: tests/fixtures/$(FIXTURE).distilled tests/fixtures/expand.py | $(VENV)/.npdump
	@mkdir -p $(@D)
	$(BIN)/python tests/fixtures/expand.py $(FIXTURE) $@

man/npdump.8: $(wildcard npdump/cli/flags/*.py) man/npdump.include setup.cfg $(VENV)/.dev
	$(BIN)/python setup.py --quiet build_manpages

# The stamps stand for "installed as setup.cfg says"; the package itself is used in place.
$(VENV)/.venv:
	@PYTHON="$(PYTHON)" tools/prepare.sh
	@echo "npdump: making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.npdump: setup.cfg pyproject.toml $(VENV)/.venv
	@echo "npdump: installing npdump and its libraries into $(VENV) with pip (setup.cfg lists them)"
	@$(PIP) $(EDITABLE) .
	@touch $@

$(VENV)/.test: $(VENV)/.npdump
	@echo "npdump: installing pytest and what else the tests need into $(VENV) with pip"
	@$(PIP) $(EDITABLE) '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@echo "npdump: installing ruff, mypy, import-linter and build into $(VENV) with pip"
	@$(PIP) $(EDITABLE) '.[dev]'
	@touch $@
