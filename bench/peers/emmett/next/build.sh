#!/usr/bin/env bash
# Makes emmett.mjs of the coming release, at a pinned commit of its repository
# (0.43.0-beta.39 and two commits), with the bundler that package.json pins.
#
#   EMMETT_REPO   where to take the commit from; default: its home on GitHub
set -euo pipefail
cd "$(dirname "$0")"
commit=6e308790bfc44396e4288a04de81e36a1655af80
repo=${EMMETT_REPO:-https://github.com/event-driven-io/emmett.git}
if [ -f emmett.mjs ] && grep -q "$commit" emmett.mjs; then exit 0; fi
src=$(mktemp -d)
trap 'rm -rf "$src"' EXIT
if [ -d "$repo" ]; then
	git -C "$repo" archive "$commit" src | tar x -C "$src"
else
	git init -q "$src"
	git -C "$src" fetch -q --depth 1 "$repo" "$commit"
	git -C "$src" checkout -q FETCH_HEAD
fi
packages=$src/src/packages
ln -s "$PWD/node_modules" "$src/node_modules"
node_modules/.bin/esbuild "$packages/emmett-postgresql/src/index.ts" --bundle --platform=node --format=esm \
	--target=node20 --outfile=emmett.mjs --log-level=error --banner:js="// Emmett, commit $commit" \
	--alias:@event-driven-io/emmett="$packages/emmett/src/index.ts" \
	--alias:@event-driven-io/almanac="$packages/almanac/src/index.ts" \
	--external:@event-driven-io/pongo --external:@event-driven-io/pongo/pg \
	--external:@event-driven-io/dumbo --external:@event-driven-io/dumbo/pg \
	--external:pg --external:uuid --external:async-retry --external:commander --external:@opentelemetry/*
