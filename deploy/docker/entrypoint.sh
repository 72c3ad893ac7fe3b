#!/bin/sh
# Of the image: `serving`, `trainer`, `console` and `registry` run that service, anything else is a command (`graft ...`).
# exec, so that the service is the process that signals reach.
set -eu
case "${1:-}" in
  serving) shift; exec python -m serving_service "$@" ;;
  trainer) shift; exec python -m trainer_service "$@" ;;
  console) shift; exec python -m graftwork.console "$@" ;;
  registry) shift; exec python -m adapter_store "$@" ;;
  "") echo "say what to run: serving, trainer, console, registry, or a command such as graft --help" >&2; exit 2 ;;
  *) exec "$@" ;;
esac
