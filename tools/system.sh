# Debian and Ubuntu packages that pip cannot bring; sourced by setup.sh.
# Headless rendering: EGL (a GPU's, or Mesa's software one) and OSMesa as the fallback.

RENDER_PACKAGES=(libegl1 libgl1 libgl1-mesa-dri libosmesa6)

as_root() {  # run a command as root if that needs no password; otherwise fail
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    return 1
  fi
}

has_library() { [[ $(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null) == *"$1"* ]]; }

apt_install() {  # apt_install PACKAGE...: those of them that this release has
  local package known=()
  command -v apt-get >/dev/null || return 1
  as_root true || return 1
  as_root apt-get update -qq >/dev/null 2>&1 || true
  for package in "$@"; do
    apt-cache show "$package" >/dev/null 2>&1 && known+=("$package")
  done
  [ "${#known[@]}" -gt 0 ] || return 1
  echo "setup: apt-get install ${known[*]}" >&2
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${known[@]}" >/dev/null
}

system_packages() {
  has_library libEGL.so.1 && has_library libOSMesa.so && return 0
  apt_install "${RENDER_PACKAGES[@]}" && return 0
  echo "setup: libraries for headless rendering are missing; to install them, type:" >&2
  echo "         sudo apt-get install ${RENDER_PACKAGES[*]}" >&2
  return 1
}

install_venv_module() {  # install_venv_module PYTHON: Debian keeps venv in a package of its own
  local version
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  apt_install "python$version-venv" || apt_install python3-venv || return 1
  "$1" -c 'import ensurepip, venv' 2>/dev/null
}
