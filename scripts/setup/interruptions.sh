# Sourced by setup/environment.sh: how a set-up runs programs, shows that they go on, and ends.
# shellcheck shell=bash disable=SC2034

STEP='' CHILD='' TICKER='' UNFINISHED='' EXPLAINED=no
exec 8>&2 # stderr itself, for a trap that runs while a command's stderr goes elsewhere

# die, usage_error: as in kit/common.sh, and noted: the line that they print is the last one.
die() {
  EXPLAINED=yes
  printf '%s: %s\n' "$PROGRAM" "$(printable "$*")" >&8
  exit 1
}
usage_error() {
  EXPLAINED=yes
  printf '%s: %s\n' "$PROGRAM" "$(printable "$*")" >&8
  exit 2
}

step() {
  STEP=$1
  say "$1"
}

# on_interruption: from here on INT, TERM and HUP end the set-up with 128 + the signal.
on_interruption() {
  trap 'stop INT 130' INT
  trap 'stop TERM 143' TERM
  trap 'stop HUP 129' HUP
  trap 'ended $?' EXIT
}

# run COMMAND...: as a child that INT and TERM reach at once, not only when it has ended.
run() {
  local code=0
  "$@" 8>&- &
  CHILD=$!
  wait "$CHILD" || code=$?
  CHILD=''
  return "$code"
}

# run_with_ticker WHAT COMMAND...: run it; a moving line on a terminal, else a line every 25 s.
run_with_ticker() {
  local code=0 what=$1
  shift
  ticker "$what" </dev/null >/dev/null 2>&1 3>&- 9>&- &
  TICKER=$!
  run "$@" || code=$?
  end_ticker
  return "$code"
}

ticker() {
  local seconds=0 terminal=no
  if [ -t 8 ]; then terminal=yes; fi
  while sleep 1 8>&- && kill -0 $$; do
    seconds=$((seconds + 1))
    if [ "$terminal" = yes ]; then
      printf '\r%s, %s s\033[K' "$1" "$seconds" >&8
    elif [ $((seconds % 25)) -eq 0 ]; then
      printf '%s, %s s\n' "$1" "$seconds" >&8
    fi
  done
}

end_ticker() {
  if [ -z "$TICKER" ]; then return 0; fi
  { kill "$TICKER" && wait "$TICKER"; } 2>/dev/null || true
  TICKER=''
  if [ -t 8 ]; then printf '\r\033[K' >&8; fi
}

# check_stage COMMAND...: show the table of a check; where one fails, its text is the last line.
check_stage() {
  local table code=0
  table=$("$@" 8>&-) || code=$?
  if [ -n "$table" ]; then printf '%s\n' "$table" >&2; fi
  if [ "$code" -ne 0 ]; then die "$(printf '%s\n' "$table" | first_failure)"; fi
}

# first_failure: "subject: what was found; the fix" of the first FAIL in a table of checks.
first_failure() {
  awk '/^FAIL  / && !text { text = substr($0, 7); sub(/  +/, ": ", text); next }
    text && /^ +fix: / { sub(/^ +fix: /, ""); text = text "; " $0; exit }
    text { exit }
    END { print text ? text : "a check failed, see above" }'
}

# stop SIGNAL CODE
stop() {
  trap '' INT TERM HUP
  end_ticker
  if [ -n "$CHILD" ]; then end_tree "$CHILD"; fi
  printf '%s\n' "$PROGRAM: interrupted ($1) at: ${STEP:-start}; run it again to finish, what was \
there before still works" >&8
  EXPLAINED=yes
  exit "$2"
}

# end_tree PID: TERM to a child and all below it; KILL to what is left of them after 10 s.
end_tree() {
  local tree waited=0
  tree="$1 $(below "$1")"
  # shellcheck disable=SC2086 # a list of numbers
  kill -TERM $tree 2>/dev/null || true
  while kill -0 "$1" 2>/dev/null && [ "$waited" -lt 100 ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  # shellcheck disable=SC2086
  kill -KILL $tree 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

# below PID: the processes that it started, and those that they started.
below() {
  ps -A -o pid= -o ppid= 2>/dev/null | awk -v top="$1" '
    { parent[$1] = $2 }
    END {
      for (pid in parent) {
        for (up = pid; up in parent && up != top; up = parent[up]) if (up + 0 <= 1) break
        if (up == top && pid != top) printf "%s ", pid
      }
    }'
}

# ended CODE: at every exit. What was being built is of no use to anybody.
ended() {
  trap '' INT TERM HUP
  end_ticker
  if [ -n "$UNFINISHED" ]; then remove_folder "$UNFINISHED"; fi
  if [ "$1" -ne 0 ] && [ -n "$STEP" ] && [ "$EXPLAINED" = no ]; then
    printf '%s\n' "$PROGRAM: failed at: $STEP; the lines above say why" >&8
  fi
  return 0
}

# remove_folder FOLDER: again and again for 5 s, for a killed program's last child may still write.
remove_folder() {
  local tries=0
  until rm -rf "$1" 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -ge 25 ]; then
      warn "$1 could not be deleted; delete it (rm -rf)"
      return 0
    fi
    sleep 0.2
  done
}
