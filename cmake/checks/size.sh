#!/bin/sh
# The library is not larger than it may be.  size.sh <library> <bytes>
set -eu
size=$(stat -L -c %s "$1")
echo "$size bytes, $2 allowed"
[ "$size" -le "$2" ]
