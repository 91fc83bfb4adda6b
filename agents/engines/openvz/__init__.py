"""OpenVZ VEs under vzctl: 4.x on an OpenVZ kernel or an ordinary one, and the dialect of OpenVZ 7 and later."""
