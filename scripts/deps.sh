# deps.sh - what pumice needs from Debian, in one place; sourced by run.sh and test.sh.

build_packages="gcc libc6-dev meson ninja-build pkg-config
    libjansson-dev libpcre2-dev libutf8proc-dev libedit-dev libxxhash-dev libssl-dev libcurl4-openssl-dev libdnnl-dev libcmocka-dev
    libmicrohttpd-dev gnuplot-nox"
test_packages="clang libclang-rt-dev python3 python3-jinja2 python3-jsonschema strace"

say() {
    printf '%s: %s\n' "${0##*/}" "$*"
}

# install PACKAGE... - installs those that dpkg does not know as installed, and says which.
install() {
    command -v dpkg-query >/dev/null || {
        say "no dpkg here; needed by their Debian names:" $*
        return 0
    }
    have=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
        sed -n 's/ installed$//p')
    missing=
    for p in "$@"; do
        printf '%s\n' "$have" | grep -qx "$p" || missing="$missing $p"
    done
    [ -n "$missing" ] || return 0
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            say "missing packages, and neither root nor sudo to install them:$missing" >&2
            return 1
        }
        as_root="sudo"
    fi
    say "installing$missing"
    apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -y"
    $apt update </dev/null &&
        $apt install --no-install-recommends $missing </dev/null >/dev/null || {
        say "apt-get could not install:$missing" >&2
        return 1
    }
}

# build DIR [meson setup options] - configures DIR once, then lets ninja do what is left to do.
build() {
    dir=$1
    shift
    if [ ! -f "$dir/build.ninja" ]; then
        say "configuring $dir"
        mkdir -p "$dir"
        meson setup "$dir" "$@" >"$dir/setup.log" 2>&1 || {
            cat "$dir/setup.log" >&2
            return 1
        }
    fi
    say "building $dir"
    said=$(ninja -C "$dir" --quiet 2>&1) || {
        printf '%s\n' "$said" >&2
        return 1
    }
}
