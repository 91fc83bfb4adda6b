"""OCI bundles under crun or runc, checkpointed by CRIU."""
