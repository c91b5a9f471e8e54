"""The POSIX shell that runs on a host: facts, listing, SHA-256. GNU, BSD and busybox tools."""

from __future__ import annotations

from transfer.host import Host, quote

# No locale, no cd that prints, no options that a variable adds.
HEAD = "LC_ALL=C; export LC_ALL; unset CDPATH TAR_OPTIONS POSIXLY_CORRECT\n"

# list_files WHERE… [-prune expression]: `mode inode size mtime ctime path` records, then an
# `error TEXT` record for each thing that find could not read, after a first line that names how
# records end (nul or lines). signatures WORD FILE…: `WORD mode inode size mtime ctime path` lines.
LISTING = r"""
if find . -maxdepth 0 -printf '' 2>/dev/null; then tools=gnu
elif stat -c %i . >/dev/null 2>&1; then tools=busybox
else tools=bsd; fi
signatures() {
  word=$1; shift
  case $tools in
    (gnu) find -L "$@" -maxdepth 0 -type f -printf "$word %m %i %s %T@ %C@ %p\\n";;
    (busybox) stat -L -c "$word %a %i %s %Y %Z %n" "$@";;
    (bsd) stat -L -f "$word %Lp %i %z %Fm %Fc %N" "$@";;
  esac 2>/dev/null || true
}
list_files() {
  if ! command -v find >/dev/null 2>&1; then echo none; return; fi
  last='\n'
  case $tools in
    (gnu) last='\0'; set -- "$@" -type f -printf '%m %i %s %T@ %C@ %p\0';;
    (busybox) set -- "$@" -type f -exec stat -L -c '%a %i %s %Y %Z %n' {} +;;
    (bsd) set -- "$@" -type f -exec stat -L -f '%Lp %i %z %Fm %Fc %N' {} +;;
  esac
  case $tools in (gnu) echo nul;; (*) echo lines;; esac
  { errors=$(find "$@" 2>&1 >&3 3>&- | head -n 1000); } 3>&1
  [ -z "$errors" ] || printf '%s\n' "$errors" | while IFS= read -r line; do
    printf "error %s$last" "$line"
  done
}
"""
# hash_files: SHA-256 of the files named on stdin, each ended by NUL. openssl first: it uses the
# processor's SHA instructions where coreutils often does not (five times the speed).
HASH = r"""
hash_tool() {
  case $(printf '' | openssl dgst -sha256 -r 2>/dev/null) in
    (e3b0c44298*) echo openssl; return ;;
  esac
  for tool in sha256sum shasum; do
    if command -v $tool >/dev/null 2>&1; then echo $tool; return; fi
  done
  echo none
}
hash_files() {
  case $(hash_tool) in
    (openssl) xargs -0 -n 2000 openssl dgst -sha256 -r ;;
    (sha256sum) xargs -0 -n 2000 sha256sum ;;
    (shasum) xargs -0 -n 2000 shasum -a 256 ;;
    (*) echo "no openssl, sha256sum or shasum" >&2; exit 1 ;;
  esac 2>/dev/null || true
}
"""
# Facts, one `name value` line each. $root is the kit's folder; its disk counts, or that of the
# nearest folder above it that exists.
FACTS = r"""
place=$root
while [ ! -d "$place" ]; do
  case $place in (*/*) place=${place%/*}; [ -n "$place" ] || place=/;; (*) place=.;; esac
done
before_percent() { # NAME OPTION: the last word before a percentage in what df says
  value='' before=''
  for word in $(df "$2" "$place" 2>/dev/null); do
    case $word in ([0-9]*%) value=$before;; esac
    before=$word
  done
  printf '%s %s\n' "$1" "$value"
}
printf 'rsync '; command -v rsync || echo
printf 'tar '; command -v tar || echo
before_percent free -Pk
before_percent inodes -Pi
if [ -w "$place" ]; then echo writable yes; else echo 'writable '; fi
"""


def probe_script(host: Host, listing: str, stage: str = "") -> str:
    """Facts about the host, then the listing of `listing` (find's arguments).

    `stage`: this laptop's staging folder in the kit there; the fact `staged` says that it exists.
    """
    staged = f"{quote(host.root)}/{quote(stage)}" if stage else ""
    look = f"for one in {staged} {staged}.*; do [ ! -d $one ] || echo staged yes; done\n"
    look = look if stage else ""
    return (
        f"{HEAD}root={quote(host.root)}\n{LISTING}{FACTS}{look}"
        f'if cd "$root" 2>/dev/null; then echo there yes; echo; list_files {listing}; '
        'elif [ -d "$root" ]; then echo there closed; echo; echo nul; '
        "else echo there; echo; echo nul; fi\nexit 0\n"
    )


def hash_script(host: Host, names: str) -> str:
    """Hash the files that the shell text `names` prints, in the kit there."""
    return f"{HEAD}{HASH}cd {quote(host.root)} && {names} | hash_files\n"
