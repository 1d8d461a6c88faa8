# make            the library and the Python package, ready in .venv
# make demo       the shipped sample, taken apart
# make test       every test: Swift, C, C++, Python, the installed tree, the wheel
# make bench      against the peers (BENCH="--quick" is the default; BENCH= runs everything)
# make sanitize   the C and C++ tests under AddressSanitizer
# make clean      removes build/ and .venv/
#
# Needs a Swift 6.1 or newer toolchain on PATH and Python 3.11 or newer (PYTHON=python3.12 chooses one). What else is missing is
# installed, or named when that needs rights this user does not have. Logs are in build/logs.

BENCH ?= --quick
export PYTHON BENCH

.PHONY: all demo test bench sanitize clean
.NOTPARALLEL:

all demo test bench sanitize clean:
	@bash tools/make.sh $@
