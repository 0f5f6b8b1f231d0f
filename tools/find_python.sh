# Prints the first python3 of this machine that is 3.11 or newer and can make virtual
# environments; says what to install where there is none.
for name in python3 python3.14 python3.13 python3.12 python3.11; do
  python=$(command -v "$name") || continue
  if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
  then
    echo "$python"
    exit 0
  fi
done
echo "error: no Python 3.11 or newer with venv (looked for python3, python3.11 to 3.14)." >&2
echo "  Debian and Ubuntu: apt-get install python3 python3-venv" >&2
exit 1
