#!/usr/bin/env bash
# Makes .venv ready: finds a Python, installs what is missing, says what it does.
# Runs before every make target; when nothing changed it returns in milliseconds.
#   PYTHON=/path/to/python3.11   which interpreter to use (otherwise the first that fits)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/system.sh

VENV=.venv
STAMP=$VENV/.setup
LOG=$VENV/setup.log
EXTRAS=all

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
say() { printf 'setup: %s\n' "$*" >&2; }

supported() {  # is "$1" a Python that runs, of a version this project supports?
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    supported "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.10, 3.11 or 3.12"
    echo "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3 python3.12 python3.11 python3.10; do
    if command -v "$candidate" >/dev/null && supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "needs Python 3.10, 3.11 or 3.12; python3 here is $(python3 --version 2>&1 || echo missing)." \
    "Install one, or name it: make PYTHON=/path/to/python3.12 …"
}

version() { "$1" -c 'import sys; print(*sys.version_info[:2])'; }

fingerprint() {  # what the installation depends on: these files, and where they lie
  { cat setup.py setup.cfg constraints.txt; pwd -P; echo "$EXTRAS"; } | sha256sum | cut -d ' ' -f 1
}

fits() {  # does .venv run, with the interpreter that was asked for?
  [ -x "$VENV/bin/python" ] || return 1
  [ -z "${PYTHON:-}" ] || [ "$(version "$VENV/bin/python")" = "$(version "$PYTHON")" ]
}

ready() { fits && [ "$(cat "$STAMP" 2>/dev/null)" = "$(fingerprint)" ]; }

ready && exit 0

exec 9<tools/setup.sh
flock -n 9 || { say 'another make is installing; waiting for it'; flock 9; }
ready && exit 0

system_packages || true

if ! { fits && supported "$VENV/bin/python"; }; then
  python=$(find_python)
  "$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv_module "$python" ||
    fail "this Python cannot make virtual environments; type: sudo apt-get install python3-venv"
  say "making $VENV with $("$python" --version)"
  "$python" -m venv --clear "$VENV"
fi

run_logged() {  # run_logged WHAT COMMAND...: output into the log, a sign of life on the terminal
  local what=$1 pid start=$SECONDS width latest
  shift
  "$@" >>"$LOG" 2>&1 &
  pid=$!
  trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    if [ -t 2 ]; then
      width=$(tput cols 2>/dev/null || echo 80)
      latest=$(grep -aoE '^ *(Collecting|Downloading|Building|Installing collected)[^(,:;]*' \
        "$LOG" | tail -n 1 | sed 's/^ *//' || true)
      printf '\r\033[K%.*s' "$((width - 1))" "setup: $what, $((SECONDS - start)) s  $latest" >&2
    fi
  done
  [ -t 2 ] && printf '\r\033[K' >&2
  trap - INT TERM
  if ! wait "$pid"; then
    tail -n 25 "$LOG" >&2
    fail "$what failed; the whole log is $LOG"
  fi
  say "$what: done in $((SECONDS - start)) s"
}

export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
pip=("$VENV/bin/python" -m pip install --progress-bar off -c constraints.txt)
: >"$LOG"
if [ -s "$STAMP" ]; then
  say 'setup.py, setup.cfg or constraints.txt has changed: updating .venv'
else
  say 'installing into .venv: once, a few minutes, about 3 GB of disk'
fi
run_logged 'installer' "${pip[@]}" pip setuptools wheel
# No build isolation: the package builds with the setuptools just pinned, nothing else is fetched.
run_logged 'packages' "${pip[@]}" --no-build-isolation --use-pep517 -e ".[$EXTRAS]"

"$VENV/bin/python" tools/check_renderer.py || fail 'no renderer works; see the line above'
fingerprint >"$STAMP"
