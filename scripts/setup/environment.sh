# Sourced by setup_local.sh and setup_remote.sh: build, verify and publish an environment.
#
#   .envs/<name>-<fingerprint>/   the environment; .tandem/ in it holds the copy of the lock, the
#                                 seal (hash of every RECORD) and, last of all, the stamp
#   .venv-<name>                  the link that is switched to it
#   .envs/.lock-<name>            held with flock(2) while one is built; the kernel frees it
#
# A folder without a stamp was never finished, and is deleted by the next run.
# shellcheck shell=bash disable=SC2034

# shellcheck source=scripts/setup/interruptions.sh
. "$KIT_ROOT/scripts/setup/interruptions.sh"
# shellcheck source=scripts/setup/other_programs.sh
. "$KIT_ROOT/scripts/setup/other_programs.sh"
# shellcheck source=scripts/setup/find_python.sh
. "$KIT_ROOT/scripts/setup/find_python.sh"
# shellcheck source=scripts/setup/find_uv.sh
. "$KIT_ROOT/scripts/setup/find_uv.sh"
# shellcheck source=scripts/setup/package_sources.sh
. "$KIT_ROOT/scripts/setup/package_sources.sh"
# shellcheck source=scripts/setup/stamp.sh
. "$KIT_ROOT/scripts/setup/stamp.sh"

ENVS=$KIT_ROOT/.envs
VERIFY=$KIT_ROOT/scripts/setup/verify_environment.py
UV=${UV:-} DAMAGED='' GPU=none

# lock_of NAME: the hashed lock of an environment, relative to the checkout.
lock_of() {
  case $1 in
    serve) printf 'configs/requirements-serve.txt\n' ;;
    *) printf 'requirements-%s.txt\n' "$1" ;;
  esac
}

# environment NAME: which one this command makes, without the settings that would spoil it.
environment() {
  ENV_NAME=$1 AGAIN=./$PROGRAM
  if [ "$1" = serve ]; then AGAIN="$AGAIN --serve"; fi
  LINK=$KIT_ROOT/.venv-$1
  LOCK=${TANDEM_LOCK:-$KIT_ROOT/$(lock_of "$1")}
  REPORT=$ENVS/.report-$1
  [ -f "$LOCK" ] ||
    usage_error "$LOCK: there is no such lock; restore it (git checkout -- $(lock_of "$1"))"
  need_home
  forget_variables
  on_interruption
}

# need_home: HOME from the user's entry, or a folder in the checkout where there is none.
need_home() {
  if [ -n "${HOME:-}" ]; then return 0; fi
  HOME=$(unset HOME && cd ~ 2>/dev/null && pwd -P) || HOME=$KIT_ROOT/.cache/home
  export HOME
}

# --- building -----------------------------------------------------------------------------
# take_lock: wait until nobody else builds this environment. flock(2) belongs to descriptor 9,
# which this shell and its children share: it is free again when the last of them is gone.
take_lock() {
  local lock=$ENVS/.lock-$ENV_NAME
  { mkdir -p "$ENVS" && : >>"$lock"; } 2>/dev/null ||
    die "$lock cannot be written; sudo chown -R \$(id -un) $ENVS"
  exec 9>"$lock"
  if ! "$PYTHON" -I -S -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
    note "another set-up of .venv-$ENV_NAME is running; waiting for it to end"
    run_with_ticker "waiting for the other set-up" \
      "$PYTHON" -I -S -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null ||
      warn "this filesystem has no locks; do not run two set-ups at once"
  fi
}

# current: the folder's name that the link points to, if it is one of ours.
current() {
  local target
  target=$(readlink "$LINK" 2>/dev/null) || return 0
  case $target in .envs/"$ENV_NAME"-*) printf '%s\n' "${target#.envs/}" ;; esac
}

# has_others KEEP: whether .envs holds other folders of this environment.
has_others() {
  local folder
  for folder in "$ENVS/$ENV_NAME"-*; do
    if [ -d "$folder" ] && [ "${folder##*/}" != "$1" ]; then return 0; fi
  done
  return 1
}

# remove_others KEEP: delete this environment's other folders, finished or not. Files that they
# share with the one that is kept (hard links) get another inode time: stamp that one anew.
remove_others() {
  local folder
  for folder in "$ENVS/$ENV_NAME"-*; do
    if [ -d "$folder" ] && [ "${folder##*/}" != "$1" ]; then
      run_with_ticker "deleting ${folder##*/}" rm -rf "$folder" || remove_folder "$folder"
    fi
  done
}

# fingerprint BACKEND: twelve digits for lock, interpreter, platform, backend and recipe.
fingerprint() {
  {
    pins_of "$LOCK"
    printf '%s\n' "$PYTHON" "$PYTHON_VERSION" "$PYTHON_MACHINE" "$(uname -sm)" "$1" "$RECIPE"
    if [ "$1" = conda ]; then printf '%s\n' "$KIT_ROOT"; fi # conda's cannot be moved
  } | sha256_of | cut -c 1-12
}

# choose_folder BACKEND: set FOLDER to a name that is not in use.
choose_folder() {
  local base suffix=''
  base=$ENV_NAME-$(fingerprint "$1")
  while [ "$base$suffix" = "$(current)" ]; do suffix=${suffix}x; done
  FOLDER=$ENVS/$base$suffix
}

# install_packages BACKEND: fill $FOLDER from the lock, every wheel by its hash, and verify it:
# a package is hashed as soon as it is in place. What is in uv's cache as a whole goes in without
# a question to the index, which takes a third of the time. Codes as of verify_environment.py.
install_packages() {
  local how=(sync "$LOCK") code=0 mark=$FOLDER/.tandem/mark
  if [ "$1" = conda ]; then how=(install --requirement "$LOCK"); fi # what conda put there stays
  how+=(--python "$FOLDER/bin/python" --require-hashes)
  how+=(--only-binary :all: --no-binary langdetect --no-binary rouge-score)
  how+=(${UV_OPTIONS[@]+"${UV_OPTIONS[@]}"})
  note "installing ${LOCK##*/} with uv"
  # shellcheck disable=SC2016 # the inner shell expands them
  verify_folder --seal --mark "$mark" -- /bin/sh -c 'exec "$0" "$@" 2>/dev/null' \
    "$UV" pip "${how[@]}" --quiet --offline || code=$?
  if [ "$code" -eq 3 ]; then
    code=0
    verify_folder --seal --mark "$mark" -- "$UV" pip "${how[@]}" || code=$?
  fi
  if [ "$code" -eq 3 ]; then die "$(first_failure <"$REPORT")"; fi
  cat "$REPORT" >&2
  return "$code"
}

# verify_folder [OPTION...] [-- COMMAND...]: its table goes to $REPORT; DAMAGED gets the names.
verify_folder() {
  local code=0
  run "$FOLDER/bin/python" -I -S "$VERIFY" "$FOLDER" --damaged "$ENVS/.damaged-$ENV_NAME" "$@" \
    >"$REPORT" || code=$?
  DAMAGED=''
  if [ -f "$ENVS/.damaged-$ENV_NAME" ]; then DAMAGED=$(tr '\n' ' ' <"$ENVS/.damaged-$ENV_NAME"); fi
  rm -f "$ENVS/.damaged-$ENV_NAME"
  return "$code"
}

# clean_cache: uv links files out of its cache, so what is damaged here is damaged there.
clean_cache() {
  [ -n "$DAMAGED" ] || return 0
  note "fetching anew: $DAMAGED"
  # shellcheck disable=SC2086 # a list of names
  run "$UV" cache clean --quiet $DAMAGED >&2 || warn "uv's cache could not be cleaned"
  DAMAGED=''
}

# switch_link: one rename, so that there is always an environment under the link.
switch_link() {
  "$PYTHON" -I -S -c 'import os, sys
target, link = sys.argv[1:]
part = f"{link}.{os.getpid()}.part"
os.symlink(target, part)
os.replace(part, link)' ".envs/${FOLDER##*/}" "$LINK"
}

# build BACKEND: make, verify and publish the environment; on failure the old one stays.
build() {
  if [ -e "$LINK" ] && [ ! -L "$LINK" ]; then
    die "$LINK is a folder of yours, not a link; move it away (mv $LINK $LINK.old)"
  fi
  need_uv
  uv_settings
  clean_cache
  choose_folder "$1"
  remove_others "$(current)"
  UNFINISHED=$FOLDER
  if ! fill "$1"; then
    [ -n "$DAMAGED" ] || die "$(why_it_failed)"
    clean_cache
    remove_folder "$FOLDER"
    fill "$1" || die "$(why_it_failed)"
  fi
  final_check "$FOLDER" >"$REPORT" || {
    cat "$REPORT" >&2
    die "$(first_failure <"$REPORT")"
  }
  cat "$REPORT" >&2
  rm -f "$REPORT"
  UNFINISHED='' # from here on the link may point to it
  switch_link
  STAMPED_BACKEND=$1 STAMPED_PYTHON=$(python_of "$1")
  write_stamp
  if has_others "${FOLDER##*/}"; then
    remove_others "${FOLDER##*/}"
    : >"$FOLDER/.tandem/mark"
    write_stamp
  fi
}

# python_of BACKEND: "version path" of the interpreter that $FOLDER was made with.
python_of() {
  local facts
  if [ "$1" = venv ]; then
    printf '%s\n' "$PYTHON_VERSION $PYTHON"
  else
    facts=$(python_facts "$FOLDER/bin/python" any)
    printf '%s %s\n' "$(cut -d '|' -f 2 <<<"$facts")" "${facts%%|*}"
  fi
}

# fill BACKEND: $FOLDER with an interpreter and the packages, verified.
fill() {
  case $1 in
    conda) conda_create || die "$CONDA made no environment, see its lines above; --backend venv" \
      "needs no conda" ;;
    *) run "$UV" venv --quiet --relocatable --no-project --python "$PYTHON" "$FOLDER" >&2 ||
      die "uv could not make an environment with $PYTHON, see above; name another in TANDEM_PYTHON" ;;
  esac
  mkdir -p "$FOLDER/.tandem"
  cp "$LOCK" "$FOLDER/.tandem/lock.txt"
  install_packages "$1"
}

# why_it_failed: the first failure of the report, with what may be its reason.
why_it_failed() {
  local text
  text=$(first_failure <"$REPORT")
  case $text in
    import*) if [ -n "${LD_LIBRARY_PATH:-}" ]; then
      text="$text; LD_LIBRARY_PATH=$LD_LIBRARY_PATH may put other libraries before its own: unset it"
    fi ;;
    *damaged* | *missing*) text="$text; check the disk and its free room (make storage)" ;;
  esac
  printf '%s\n' "$text"
}

# reverify: files changed since the stamp. If they are as installed, stamp anew: nothing to do.
reverify() {
  local since=(--unchanged-since "$LINK/.tandem/stamp")
  if [ -e "$FOLDER/.tandem/suspect" ]; then since=(); fi
  note "files in .venv-$ENV_NAME changed since it was verified; comparing them"
  : >"$FOLDER/.tandem/mark"
  if verify_folder --no-imports ${since[@]+"${since[@]}"}; then
    write_stamp
    return 0
  fi
  cat "$REPORT" >&2
  return 1
}

# --- the step that both set-ups share -------------------------------------------------------
# install_environment BACKEND: nothing, a repair, or a new environment; two at once are safe.
install_environment() {
  take_lock
  env_state # once more: another run may have built it while this one waited
  if [ "$FORCE" = no ]; then
    FOLDER=$ENVS/$(current)
    case $STATE in
      ready | untidy)
        if [ "$STATE:$STAMPED_GPU" = "ready:$GPU" ]; then return 0; fi
        remove_others "${FOLDER##*/}"
        : >"$FOLDER/.tandem/mark"
        write_stamp
        return 0
        ;;
      suspect)
        remove_others "${FOLDER##*/}"
        if reverify; then return 0; fi
        ;;
    esac
  fi
  build "$1"
}

# check_packages: the report of --check on stdout; what is damaged is marked for the next run.
check_packages() {
  local code=0 list
  env_state
  case $STATE in
    absent) fail_line packages "not set up" "$AGAIN" ;;
    other) fail_line packages "made from another lock, Python or back end" "$AGAIN" ;;
    *)
      list=$(mktemp "${TMPDIR:-/tmp}/tandem-damaged.XXXXXX")
      run "$LINK/bin/python" -I -S "$VERIFY" --damaged "$list" "$LINK" || code=$?
      if [ -s "$list" ]; then : 2>/dev/null >"$LINK/.tandem/suspect" || true; fi
      rm -f "$list"
      ;;
  esac
  if [ "$code" -ne 0 ]; then FAILED=yes; fi
}

# fail_line SUBJECT FOUND FIX: one failed check on stdout.
fail_line() {
  printf 'FAIL  %s  %s\n      fix: %s\n' "$@"
  FAILED=yes
}

# look_before_installing: the place, and the room on every disk that matters, side by side.
look_before_installing() {
  local code=0 place
  "$PYTHON" -E -S "$KIT_ROOT/scripts/setup/preflight.py" "$ENV_NAME" &
  place=$!
  "$PYTHON" -E -S "$KIT_ROOT/scripts/check_storage.py" --brief || code=$?
  wait "$place" || code=$?
  return "$code"
}

# summary: what is there now, on stdout.
summary() {
  local site names
  for site in "$LINK"/lib/python3*/site-packages; do break; done
  names=$(sed -n 's/^\([A-Za-z0-9._-]\{1,\}\).*/\1/p' "$KIT_ROOT/configs/requirements-$ENV_NAME.in" |
    tr '\n' ' ') # BSD awk takes no line breaks in -v
  find "$site" -maxdepth 1 -name '*.dist-info' | awk -v wanted="$names" -v env="$ENV_NAME" \
    -v python="${STAMPED_PYTHON%% *}" '
    BEGIN { n = split(wanted, w, " "); while (n) { gsub("_", "-", w[n]); want[w[n--]] } }
    { sub(".*/", ""); sub("\\.dist-info$", ""); at = match($0, /-[^-]*$/); packages++
      name = tolower(substr($0, 1, at - 1)); gsub("_", "-", name)
      if (name in want) lines[++n] = sprintf("      %-24s %s", name, substr($0, at + 1)) }
    END {
      printf "ok    .venv-%s  Python %s, %s packages\n", env, python, packages
      for (i = 1; i <= n; i++) print lines[i] | "sort"
    }'
}
