# Sourced by setup_remote.sh: conda, mamba or micromamba make the environment's Python, and uv
# fills it from the hashed lock. Always by absolute path and -p: `conda activate` fails in scripts.
# shellcheck shell=bash disable=SC2034

# find_conda: set CONDA to the first of the usual places that runs.
find_conda() {
  local candidate
  for candidate in ${CONDA_EXE:+"$CONDA_EXE"} conda mamba micromamba \
    /opt/miniforge3/bin/conda /opt/conda/bin/conda /opt/miniconda3/bin/conda \
    "$HOME/miniforge3/bin/conda" "$HOME/miniconda3/bin/conda" "$HOME/anaconda3/bin/conda" \
    /workspace/miniforge3/bin/conda; do
    if "$candidate" --version >/dev/null 2>&1; then
      CONDA=$(command -v "$candidate")
      return 0
    fi
  done
  return 1
}

# choose_backend: settle BACKEND. What is there keeps its own, unless another was asked for.
choose_backend() {
  CONDA=''
  if [ "$BACKEND" = auto ] && [ -n "$STAMPED_BACKEND" ]; then BACKEND=$STAMPED_BACKEND; fi
  if [ "$BACKEND" = venv ]; then return 0; fi
  if find_conda; then
    BACKEND=conda
  elif [ "$BACKEND" = conda ]; then
    die "no conda, mamba or micromamba found; name it in CONDA_EXE, or use --backend venv"
  else
    BACKEND=venv
  fi
}

# find_remote_python: the interpreter the environment is made with. conda brings its own, so
# there any Python 3.10+ that runs our scripts will do, conda's own among them.
find_remote_python() {
  local version
  if [ "$BACKEND" != conda ]; then
    find_python
    return
  fi
  TRANSLATED=''
  for version in 3.10 3.11 3.12 3.13; do
    if search "$version"; then return 0; fi
  done
  if [ -n "${CONDA:-}" ] && fits "${CONDA%/*}/python" any; then return 0; fi
  die "no Python 3.10 to 3.13 on PATH to run the checks with; put conda's bin folder on PATH"
}

# conda_version: which Python to ask conda for, X.Y.
conda_version() {
  case $WANTED_PYTHON in
    */*) printf '%s\n' "$PYTHON_VERSION" | cut -d . -f 1,2 ;;
    *) printf '%s\n' "$WANTED_PYTHON" ;;
  esac
}

# conda_packages: the conda section of environment-remote.yml, without python.
conda_packages() {
  awk '/^dependencies:/ { on = 1; next } /- pip:/ || /^[^ #]/ { on = 0 }
    on && /^ *- / && !/python=/ { print $2 }' "$KIT_ROOT/environment-remote.yml"
}

# conda_options: those that this conda knows. The user's .condarc may add packages to every new
# environment (create_default_packages); mamba's --quiet hides the reason of a failure.
conda_options() {
  local options
  options=$("$CONDA" create --help 2>/dev/null) || options=''
  case $options in *--no-default-packages*) printf '%s\n' --no-default-packages ;; esac
  case $("$CONDA" --version 2>/dev/null) in conda*) printf '%s\n' --quiet ;; esac
}

# conda_create: an environment with Python and pip in $FOLDER. It is made where it stays, for
# conda's environments cannot be moved.
conda_create() {
  # shellcheck disable=SC2046 # one word a package or option
  run_with_ticker "${CONDA##*/} makes the environment" "$CONDA" create --yes \
    $(conda_options) --prefix "$FOLDER" --override-channels --channel conda-forge \
    "python=$(conda_version)" $(conda_packages) >&2
}
