#!/bin/sh
# Configures, builds and runs the consumer project.  consumer.sh <cmake> <generator> <source> <build directory> <cmake options...>
set -eu
cmake=$1 generator=$2 source=$3 build=$4
shift 4
rm -rf "$build"
"$cmake" -G "$generator" -S "$source" -B "$build" "$@"
"$cmake" --build "$build"
for program in c_lasso c_decompose c_attribute cpp_decompose cpp_attribute; do
  echo "+ $program"
  "$build/$program"
done
