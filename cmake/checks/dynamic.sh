#!/bin/sh
# The dynamic section: name, no unloading, nothing needed but OpenBLAS and the C and C++ runtimes, no path of the machine it was
# built on.  dynamic.sh <library> <soname> <system|scipy>
set -eu
dynamic=$(LC_ALL=C readelf -d "$1")
status=0
fail() { echo "$1"; status=1; }
echo "$dynamic" | grep -E 'NEEDED|SONAME|R(UN)?PATH|FLAGS_1'

echo "$dynamic" | grep -q "SONAME.*\[$2\]" || fail "the soname is not $2"
echo "$dynamic" | grep -q 'FLAGS_1.*NODELETE' || fail "DF_1_NODELETE is not set"
echo "$dynamic" | grep -q TEXTREL && fail "there are text relocations"
runpath=$(echo "$dynamic" | sed -nE 's/.*R(UN)?PATH.*\[(.*)\]/\2/p')
if [ "$3" = scipy ]; then
  [ "$runpath" = '$ORIGIN' ] || fail "RUNPATH is \"$runpath\", expected \$ORIGIN"
  blas='libscipy_openblas\.so'
else
  [ -z "$runpath" ] || fail "RUNPATH is \"$runpath\", expected none"
  blas='libopenblas\.so\.[0-9]+'
fi
needed=$(echo "$dynamic" | sed -nE 's/.*NEEDED.*\[(.*)\]/\1/p')
echo "$needed" | grep -qE "^$blas\$" || fail "OpenBLAS is not linked"
others=$(echo "$needed" | grep -vE "^($blas|lib(c|m|dl|pthread|stdc\+\+|gcc_s)\.so\.[0-9]+|ld-linux.*\.so\.[0-9]+)\$" || true)
[ -z "$others" ] || fail "unexpected libraries: $others"
exit $status
