# Sourced by setup/environment.sh: variables and configuration files of other programs. What says
# where packages come from and how (indexes, mirrors, certificates, proxies, caches) holds for the
# set-up too; what would send them elsewhere, or change which ones are taken, does not.
# shellcheck shell=bash disable=SC2034

# forget_variables: unset what would spoil an environment, for this script and its children.
forget_variables() {
  local name
  for name in $(compgen -e); do
    case $name in
      UV_CACHE_DIR | UV_LINK_MODE | UV_OFFLINE | UV_NO_PROGRESS | UV_CONFIG_FILE) ;;
      UV_DEFAULT_INDEX | UV_INDEX | UV_INDEX_* | UV_EXTRA_INDEX_URL | UV_FIND_LINKS) ;;
      UV_NO_INDEX | UV_KEYRING_PROVIDER | UV_INSECURE_HOST | UV_NATIVE_TLS) ;;
      UV_SYSTEM_CERTS | UV_HTTP_* | UV_REQUEST_TIMEOUT | UV_CONCURRENT_* | UV_LOCK_TIMEOUT) ;;
      UV_PYTHON_INSTALL_* | UV_PYTHON_DOWNLOADS* | UV_CREDENTIALS_DIR) ;;
      UV_*) unset "$name" ;;
      PIP_INDEX_URL | PIP_EXTRA_INDEX_URL | PIP_FIND_LINKS | PIP_NO_INDEX | PIP_CERT) ;;
      PIP_CLIENT_CERT | PIP_TRUSTED_HOST | PIP_PROXY | PIP_TIMEOUT | PIP_DEFAULT_TIMEOUT) ;;
      PIP_RETRIES | PIP_CACHE_DIR | PIP_KEYRING_PROVIDER | PIP_CONFIG_FILE) ;;
      PIP_*) unset "$name" ;;
      PYTHONUTF8 | PYTHONIOENCODING | PYTHONDONTWRITEBYTECODE | PYTHONPYCACHEPREFIX) ;;
      PYTHON[A-Z]* | __PYVENV_LAUNCHER__ | VIRTUAL_ENV) unset "$name" ;;
      CONDA_PREFIX* | CONDA_DEFAULT_ENV | CONDA_SUBDIR | MAMBA_SUBDIR) unset "$name" ;;
      CONDA_*PACKAGES | MAMBA_*PACKAGES | CONDA_DRY_RUN | MAMBA_DRY_RUN) unset "$name" ;;
      CONDA_JSON | MAMBA_JSON | CONDA_*_DEPS | MAMBA_*_DEPS | CONDA_TRACK_FEATURES) unset "$name" ;;
    esac
  done
  export PYTHONNOUSERSITE=1
}

# --- pip's configuration ------------------------------------------------------------------------
# pip_conf: KEY=value lines of the network settings in pip's files, the first file that has a key
# before the others; what stands on further lines of a value follows after a space.
pip_conf() {
  local file files=()
  for file in "${PIP_CONFIG_FILE:-}" "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" \
    "$HOME/.pip/pip.conf" "$HOME/Library/Application Support/pip/pip.conf" \
    /etc/xdg/pip/pip.conf /etc/pip.conf; do
    if [ -f "$file" ] && [ -r "$file" ]; then files+=("$file"); fi
  done
  if [ "${#files[@]}" -eq 0 ]; then return 0; fi
  awk '
    BEGIN {
      n = split("index-url extra-index-url find-links no-index trusted-host cert client-cert " \
        "proxy timeout retries keyring-provider", words, " ")
      for (i = 1; i <= n; i++) keep[words[i]] = 1
    }
    FNR == 1 { here = 0; key = "" }
    /^[ \t]*[#;]/ { next }
    /^\[/ { here = /^\[(global|install|download)\]/; key = ""; next }
    /^[ \t]/ { if (key != "") { sub(/^[ \t]+/, ""); value[key] = value[key] " " $0 } ; next }
    here && /[=:]/ {
      key = $0; sub(/[ \t]*[=:].*/, "", key); gsub(/_/, "-", key)
      if (!(key in keep) || (key in from && from[key] != FILENAME)) { key = ""; next }
      from[key] = FILENAME; value[key] = $0; sub(/^[^=:]*[=:][ \t]*/, "", value[key])
    }
    END {
      for (key in value) {
        name = toupper(key); gsub(/-/, "_", name); sub(/^ +/, "", value[key])
        if (value[key] != "") print "PIP_" name "=" value[key]
      }
    }' "${files[@]}"
}

# pip_settings: the network settings of pip's files as variables, and no other entry of them:
# `user`, `prefix`, `target` or `no-binary` would send uv elsewhere or refuse to fetch it.
pip_settings() {
  local line name
  while IFS= read -r line; do
    name=${line%%=*}
    if [ -z "${!name:-}" ]; then export "$name=${line#*=}"; fi
  done < <(pip_conf)
  export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1
}

# --- uv's configuration ---------------------------------------------------------------------------
# uv_configuration: of the user's and the system's uv.toml only what says where packages come
# from; [pip] target, exclude-newer or no-binary would spoil the lock.
uv_configuration() {
  local files=() file
  for file in "${UV_CONFIG_FILE:-}" "${XDG_CONFIG_HOME:-$HOME/.config}/uv/uv.toml" \
    /etc/xdg/uv/uv.toml /etc/uv/uv.toml; do
    if [ -f "$file" ] && [ -r "$file" ]; then files+=("$file"); fi
  done
  unset UV_CONFIG_FILE
  if [ "${#files[@]}" -eq 0 ]; then
    export UV_NO_CONFIG=1
    return 0
  fi
  mkdir -p "$ENVS"
  awk '
    function depth_of(line) {
      gsub(/"[^"]*"|\047[^\047]*\047/, "", line); sub(/#.*/, "", line)
      return gsub(/[[{]/, "", line) - gsub(/[]}]/, "", line)
    }
    BEGIN {
      n = split("index index-url extra-index-url find-links no-index index-strategy " \
        "keyring-provider native-tls system-certs allow-insecure-host cache-dir link-mode " \
        "python-install-mirror http-proxy https-proxy no-proxy", words, " ")
      for (i = 1; i <= n; i++) keep[words[i]] = 1
    }
    FNR == 1 { table = ""; depth = 0 }
    depth > 0 { depth += depth_of($0); if (on) text[table] = text[table] $0 "\n"; next }
    /^[ \t]*(#|$)/ { next }
    /^[ \t]*\[/ {
      table = $0; gsub(/[ \t]|#.*/, "", table)
      if (table == "[[index]]") text[table] = text[table] table "\n"
      next
    }
    {
      key = $0; sub(/[ \t]*=.*/, "", key); gsub(/[ \t"]/, "", key)
      on = table == "[[index]]" || ((table == "" || table == "[pip]") && key in keep)
      if (on && table != "[[index]]") { on = !((table, key) in seen); seen[table, key] = FILENAME }
      depth = depth_of($0)
      if (on) text[table] = text[table] $0 "\n"
    }
    END {
      printf "%s", text[""]
      if (text["[pip]"]) printf "[pip]\n%s", text["[pip]"]
      printf "%s", text["[[index]]"]
    }' "${files[@]}" >"$ENVS/.uv.toml"
  export UV_CONFIG_FILE=$ENVS/.uv.toml
}
