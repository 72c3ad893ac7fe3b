"""Generated from proto/graftwork/v1 by proto/generate.sh; do not edit."""
