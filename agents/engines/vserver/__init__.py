"""Linux-VServer through util-vserver: no checkpoint exists there, so a guest moves by stop/copy."""
