#!/usr/bin/env bats
# A program that still writes to a file while a sync replaces it: its bytes are in .replaced/.
# shellcheck disable=SC2154,SC2030,SC2031 # bats sets status …; each test is a subshell

load ../support/transfer

# replaced FOLDER TEXT: one kept file below FOLDER/.replaced holds the text.
replaced() {
  grep -rqx -- "$2" "$1/.replaced" && return
  printf 'not in %s/.replaced: %s\n' "$1" "$2"
  return 1
}

written_there() {
  up
  expect 0
  exec 7>>"$THERE/docs/GUIDE.md"
  printf 'kit, second\n' >"$KIT/docs/GUIDE.md"
  printf 'kit\n' >"$KIT/docs/OTHER.md" && git -C "$KIT" add docs/OTHER.md
  up 7>&-
  expect 0
  printf 'late\n' >&7
  exec 7>&-
  says "kept      docs/GUIDE.md: what was there is in"
  replaced "$THERE" late
  [ "$(cat "$THERE/docs/GUIDE.md")" = 'kit, second' ]
  printf 'kit, third\n' >"$KIT/docs/GUIDE.md" # nobody writes to it now
  rm -rf "$THERE/.replaced"
  up
  expect 0
  [ ! -e "$THERE/.replaced" ]
}

# bats test_tags=slow
@test "up: a file that is written to there while it is replaced is kept (folder)" {
  use folder
  written_there
}

# bats test_tags=slow
@test "up: a file that is written to there while it is replaced is kept (ssh)" {
  use ssh
  written_there
}

# bats test_tags=slow
@test "up: the same on a host without Python, where fuser tells" {
  use ssh
  command -v fuser >/dev/null || skip "no fuser here"
  far_path sh bash cat cp mv ln rm rmdir mkdir find stat sed df rsync tar openssl xargs head flock \
    printf uname touch dd fuser
  written_there
}

# bats test_tags=slow
@test "down: a file that is written to here while it is replaced is kept" {
  use folder
  results
  down --with-checkpoints
  expect 0
  exec 7>>"$WORK/reports/report.html" 8>>"$WORK/adapters/runs/r1/checkpoints/checkpoint-2/optimizer.pt"
  printf '<p>second\n' >"$THERE/reports/report.html"
  printf 'state, second\n' >"$THERE/adapters/runs/r1/checkpoints/checkpoint-2/optimizer.pt"
  down --with-checkpoints 7>&- 8>&-
  expect 0
  printf 'late\n' >&7
  printf 'later\n' >&8
  exec 7>&- 8>&-
  says "reports/.replaced/" "checkpoint-2: what was here before"
  replaced "$WORK/reports" late
  replaced "$WORK/adapters" later
  diff -r "$THERE/reports" "$WORK/reports" -x .replaced
  rm -rf "$WORK"/*/.replaced
  printf '<p>third\n' >"$THERE/reports/report.html"
  printf 'state, third\n' >"$THERE/adapters/runs/r1/checkpoints/checkpoint-2/optimizer.pt"
  down --with-checkpoints
  expect 0
  [ ! -e "$WORK/reports/.replaced" ]
  [ ! -e "$WORK/adapters/.replaced" ]
}

# bats test_tags=slow
@test "up: a file that changes there after it was replaced, before it is dropped, is kept" {
  use folder
  up
  expect 0
  printf 'kit, second\n' >"$KIT/docs/GUIDE.md"
  perl -pi -e 's/^def main\(\):/import glob\ndef main():\n    open(glob.glob(".replaced\/*\/docs\/GUIDE.md")[0], "a").write("late")/' \
    "$KIT/scripts/transfer/open_files.py"
  up
  expect 0
  says "kept      docs/GUIDE.md: what was there is in"
  [ "$(tail -n 1 "$THERE"/.replaced/*/docs/GUIDE.md)" = late ]
}

# edits_after_the_swap FILE: from now on a sync finds FILE edited just after it put files in place.
edits_after_the_swap() {
  cat >>"$KIT/scripts/transfer/open_files.py" <<END
def written_inodes():
    with open("$1", "w") as f:
        f.write("mine\n")
    return set()
if __name__ == "__main__":
    written_inodes()
END
}

# bats test_tags=slow
@test "up: an edit there just after a file took its place is an edit to the next sync too" {
  use folder
  up
  expect 0
  cp "$KIT/scripts/transfer/open_files.py" "$BATS_TEST_TMPDIR/"
  edits_after_the_swap "$THERE/docs/GUIDE.md"
  printf 'kit, second\n' >"$KIT/docs/GUIDE.md"
  up
  expect 0
  [ "$(cat "$THERE/docs/GUIDE.md")" = mine ]
  cp "$BATS_TEST_TMPDIR/open_files.py" "$KIT/scripts/transfer/"
  up # nothing changed here
  expect 0
  [ "$(cat "$THERE/docs/GUIDE.md")" = 'kit, second' ]
  replaced "$THERE" mine
}

# bats test_tags=slow
@test "down: an edit here just after a file took its place is an edit to the next sync too" {
  use folder
  results
  down
  expect 0
  cp "$KIT/scripts/transfer/open_files.py" "$BATS_TEST_TMPDIR/"
  edits_after_the_swap "$WORK/reports/report.html"
  printf '<p>second\n' >"$THERE/reports/report.html"
  down
  expect 0
  [ "$(cat "$WORK/reports/report.html")" = mine ]
  cp "$BATS_TEST_TMPDIR/open_files.py" "$KIT/scripts/transfer/"
  down
  expect 0
  cmp "$THERE/reports/report.html" "$WORK/reports/report.html"
  replaced "$WORK/reports" mine
}
