#!/bin/sh
# The library exports exactly the functions the header declares.  exports.sh <library> <header> <cc>
set -eu
declared=$("$3" -E -P "$2" | tr '\n' ' ' | grep -oE '\bunmerge_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u)
exported=$(nm -D --defined-only "$1" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u)
echo "declared $(echo "$declared" | wc -l), exported $(echo "$exported" | wc -l)"
status=0
for name in $declared; do
  echo "$exported" | grep -qx "$name" || { echo "declared, not exported: $name"; status=1; }
done
for name in $exported; do
  echo "$declared" | grep -qx "$name" || { echo "exported, not declared: $name"; status=1; }
done
exit $status
