#!/bin/sh
# The examples with plain compiler lines and pkg-config.
# pkgconfig.sh <tree> <libdir> <examples> <work directory> <cc> <c++>
set -eu
PKG_CONFIG_PATH=$1/$2/pkgconfig
LD_LIBRARY_PATH=$1/$2${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PKG_CONFIG_PATH LD_LIBRARY_PATH
mkdir -p "$4"
pkg-config --modversion unmerge
flags=$(pkg-config --cflags --libs unmerge) # pkg-config quotes spaces for the shell, hence eval
run() { echo "+ $*"; "$@"; }
for source in "$3"/c/*.c; do
  program=$4/c_$(basename "$source" .c)
  eval "run \"\$5\" -std=c99 -Wall -Wextra -Werror -O1 \"\$source\" -o \"\$program\" $flags -lm"
  run "$program"
done
for source in "$3"/cpp/*.cpp; do
  program=$4/cpp_$(basename "$source" .cpp)
  eval "run \"\$6\" -std=c++17 -Wall -Wextra -Werror -O1 \"\$source\" -o \"\$program\" $flags"
  run "$program"
done
