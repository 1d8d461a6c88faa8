#!/bin/sh
# Installs, then moves the tree: nothing in it may name where it was.  install.sh <cmake> <build directory> <tree>
set -eu
rm -rf "$3" "$3.first"
"$1" --install "$2" --prefix "$3.first"
mv "$3.first" "$3"
if grep -rlF -e "$3.first" -e "$2" "$3"; then
  echo "the files above name the build or the first install directory"
  exit 1
fi
