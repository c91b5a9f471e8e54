#!/usr/bin/env bats
# Kills, damaged files and bad packages never cost the local environment that works.

load ../support/checkout

setup() { checkout; }

file_of() { printf '%s\n' .venv-"$1"/lib/python3*/site-packages/"$2"; }

# The moments of a build, as they show in the new folder.
building() { [ -n "$(newest)" ]; }
newest() { folders local | grep -vx "$first" | head -n 1; }
has() { [ -e "$(newest)/$1" ]; }
gone() { ! kill -0 "$PID" 2>/dev/null; }
reached() { gone || "$@"; }

# bats test_tags=slow
@test "killed at any moment, the old environment works and the next run finishes" {
  ./setup_local.sh
  small_lock xxhash regex numpy >>small.txt
  killed=0
  while read -r signal moment; do
    first=$(readlink .venv-local)
    start "$BATS_TEST_TMPDIR/log" ./setup_local.sh --force
    # shellcheck disable=SC2086
    within 120 reached $moment
    kill -"$signal" -- "-$PID" 2>/dev/null && killed=$((killed + 1))
    code=0 && wait "$PID" || code=$?
    case $signal in
      INT) [ "$code" = 130 ] || [ "$code" = 0 ] ;;
      TERM) [ "$code" = 143 ] || [ "$code" = 0 ] ;;
    esac
    works local
    run ./setup_local.sh
    assert_success
    works local
    [ "$(folders local)" = "$(readlink .venv-local)" ]
    .venv-local/bin/python -I -S scripts/setup/verify_environment.py --no-imports .venv-local
  done <<'MOMENTS'
KILL building
INT  has bin/python
KILL has lib/python3.10/site-packages/idna
TERM has lib/python3.10/site-packages/numpy
TERM has .tandem/mark
KILL has .tandem/mark
KILL has .tandem/records.json
MOMENTS
  [ "$killed" -ge 5 ]
}

# bats test_tags=slow
@test "only the script is killed: what it started holds the lock, the next run waits" {
  start "$BATS_TEST_TMPDIR/log" ./setup_local.sh
  first=none
  within 60 reached building
  kill -KILL "$PID"
  wait "$PID" || true
  ./setup_local.sh
  works local
  ./setup_local.sh --check
  [ "$(folders local)" = "$(readlink .venv-local)" ]
}

# bats test_tags=slow
@test "two at once: both succeed, one of them builds" {
  start "$BATS_TEST_TMPDIR/a" ./setup_local.sh
  one=$PID
  start "$BATS_TEST_TMPDIR/b" ./setup_local.sh
  two=$PID
  wait "$one"
  wait "$two"
  works local
  run grep -h 'installing small.txt' "$BATS_TEST_TMPDIR/a" "$BATS_TEST_TMPDIR/b"
  [ "${#lines[@]}" = 1 ]
}

# bats test_tags=slow
@test "a damaged file is noticed by a plain run and repaired, uv's cache with it" {
  ./setup_local.sh
  file=$(file_of local idna/core.py)
  printf 'raise SystemExit("damaged")\n' >"$file" # through the hard link: the cache as well
  run ./setup_local.sh
  assert_success
  assert_output --partial 'idna/core.py: damaged'
  works local
  run ./setup_local.sh --check
  assert_success
}

# bats test_tags=slow
@test "--check finds damage that kept the file's time, and the next run repairs it" {
  ./setup_local.sh
  file=$(file_of local idna/core.py)
  touch -r "$file" "$BATS_TEST_TMPDIR/time"
  printf '# one more line\n' >>"$file"
  touch -r "$BATS_TEST_TMPDIR/time" "$file"
  run ./setup_local.sh --check
  assert_failure 1
  assert_output --partial 'idna/core.py: damaged'
  assert_output --partial './setup_local.sh repairs it'
  ./setup_local.sh
  run ./setup_local.sh --check
  assert_success
}

# bats test_tags=slow
@test "a file that was removed is noticed and comes back" {
  ./setup_local.sh
  rm "$(file_of local tqdm/std.py)"
  run ./setup_local.sh
  assert_success
  assert_output --partial 'tqdm/std.py: missing'
  works local
  rm "$(file_of local tqdm/std.py)"
  run ./setup_local.sh --check
  assert_failure 1
  assert_output --partial 'tqdm/std.py: missing'
}

# bats test_tags=slow
@test "an environment without its stamp was never finished and is built anew" {
  ./setup_local.sh
  first=$(readlink .venv-local)
  rm .venv-local/.tandem/stamp
  ./setup_local.sh
  [ "$(readlink .venv-local)" != "$first" ]
  [ "$(folders local)" = "$(readlink .venv-local)" ]
  works local
}

# bats test_tags=slow
@test "a package that was replaced by another version comes back as locked" {
  ./setup_local.sh
  "${UV:-.envs/uv-*/bin/uv}" pip install -q --python .venv-local/bin/python 'idna<3.7'
  run ./setup_local.sh
  assert_success
  assert_output --partial 'idna'
  run ./setup_local.sh --check
  assert_success
}

# bats test_tags=slow
@test "a file that was touched and not changed costs one comparison, and no rebuild" {
  ./setup_local.sh
  first=$(readlink .venv-local)
  touch "$(file_of local tqdm/std.py)"
  run ./setup_local.sh
  assert_success
  refute_output --partial 'installing'
  run ./setup_local.sh
  assert_output --partial 'nothing to do'
  [ "$(readlink .venv-local)" = "$first" ]
}

# wheel NAME CODE: a wheel in $BATS_TEST_TMPDIR/wheels whose module holds CODE, and its lock line.
wheel() {
  "$ROOT/.venv-local/bin/python" - "$BATS_TEST_TMPDIR/wheels" "$1" "$2" <<'PYTHON'
import base64, hashlib, pathlib, sys, zipfile
folder, name, code = sys.argv[1:]
pathlib.Path(folder).mkdir(exist_ok=True)
info = f"{name}-1.0.dist-info"
files = {
    f"{name}.py": code,
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
rows = []
for path, text in files.items():
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    rows.append(f"{path},sha256={digest},{len(text)}")
files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
wheel = pathlib.Path(folder) / f"{name}-1.0-py3-none-any.whl"
with zipfile.ZipFile(wheel, "w") as z:
    for path, text in files.items():
        z.writestr(path, text)
print(f"{name}==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
PYTHON
}

# bats test_tags=slow
@test "a package that does not import is never published; PIP_FIND_LINKS reaches uv" {
  ./setup_local.sh
  first=$(readlink .venv-local)
  wheel brokenpackage 'import a_library_that_is_not_here' >>small.txt
  PIP_FIND_LINKS=$BATS_TEST_TMPDIR/wheels run ./setup_local.sh
  assert_failure 1
  assert_output --partial 'FAIL  import brokenpackage'
  assert_output --partial "No module named 'a_library_that_is_not_here'"
  [ "$(readlink .venv-local)" = "$first" ]
  [ "$(folders local)" = "$first" ]
  works local
}

# bats test_tags=slow
@test "a package whose import kills the interpreter is named" {
  wheel killer 'import os; os._exit(7)' >>small.txt
  PIP_FIND_LINKS=$BATS_TEST_TMPDIR/wheels run ./setup_local.sh
  assert_failure 1
  assert_output --partial 'import killer'
  assert_output --partial 'exit status 7'
}

# bats test_tags=slow
@test "a wheel with another hash than the lock's is refused" {
  ./setup_local.sh
  first=$(readlink .venv-local)
  wheel other 'x = 1' | sed 's/sha256:..../sha256:0000/' >>small.txt
  PIP_FIND_LINKS=$BATS_TEST_TMPDIR/wheels run ./setup_local.sh
  assert_failure 1
  assert_output --partial 'Hash mismatch'
  [ "$(readlink .venv-local)" = "$first" ]
  works local
}
