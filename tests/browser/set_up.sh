#!/bin/sh
# Install what the tests in a browser and eslint need: Chromium, npm, and the packages of the lock
# file. Go on without what can't be had here: what needs it is skipped, and says why.
cd "$(dirname "$0")" || exit

have() { command -v "$1" >/dev/null; }

need() {  # a command, and the packages of Debian that bring it
    have "$1" && return
    shift
    if [ "$(id -u)" = 0 ] && have apt-get; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq -o Acquire::http::Timeout=30 &&
            apt-get install -qq --yes --no-install-recommends "$@" && return
    fi
    echo "set_up.sh: $1 can't be installed here (that takes root, apt and network)" >&2
}

have chromium-browser || have google-chrome || need chromium chromium fonts-liberation
need npm npm
if have npm && ! [ node_modules/.package-lock.json -nt package-lock.json ]; then
    npm ci --no-progress || echo "set_up.sh: npm can't fetch its packages here" >&2
fi
exit 0
