"""The data plane: bulk goes from the source host to the target host over OpenSSH, never through the controller."""
