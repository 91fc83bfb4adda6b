"""Makes a VE on a lab host out of that host's own Debian root: a whole system, with services as Debian ships them.

Rule: nothing in it knows that it will be moved. Its first process is a shell that starts PostgreSQL and nginx and waits.
"""

from pathlib import Path

from scenarios.lab import bundles
from scenarios.lab.hosts import Host

PACKAGES = ("postgresql",)
"""What its host needs beside the lab's usual packages."""
BIG_BYTES = 64 * 1024 * 1024
"""Of /big, which nginx serves."""

SYSTEM = """
set -e
root=/var/lib/migrator/ve/$1/rootfs
for part in bin sbin lib lib64; do
    [ -e "/$part" ] && cp -a "/$part" "$root/"
done
cp -a /usr /etc "$root/"
# As in images that are made small: what nobody reads here, and a compiler that PostgreSQL calls for long queries only.
rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale "$root"/usr/share/i18n
rm -f "$root"/usr/lib/*/libLLVM*
mkdir -p "$root/var/lib/nginx" "$root/var/log/nginx" "$root/var/www/html" "$root/var/lib/postgresql"
mkdir -p "$root/root" "$root/var/lib/migrator"
chmod 1777 "$root/tmp"
chown postgres "$root/var/lib/postgresql"
head -c "$2" /dev/urandom > "$root/var/www/html/big"
echo small > "$root/var/www/html/small"
as_postgres="setpriv --reuid=postgres --regid=postgres --clear-groups"
initdb=$(ls /usr/lib/postgresql/*/bin/initdb)
$as_postgres "$initdb" --no-sync --auth=trust -D /var/lib/postgresql/data > /dev/null
echo "host all all all trust" >> /var/lib/postgresql/data/pg_hba.conf
mv /var/lib/postgresql/data "$root/var/lib/postgresql/"
cat > "$root/etc/nginx/nginx.conf" <<END
user www-data;
worker_processes 2;
events {}
http {
    access_log off;
    keepalive_requests 1000000;
    keepalive_timeout 1h;
    send_timeout 1h;
    server { listen 80; root /var/www/html; }
}
END
cat > "$root/srv/start" <<END
#!/bin/sh
$as_postgres ${initdb%initdb}postgres -D /var/lib/postgresql/data -c listen_addresses=* \\
    -c unix_socket_directories=/tmp -c shared_buffers=32MB &
nginx
wait
END
chmod +x "$root/srv/start"
"""


def install(host: Host, ve: str, runtime: str, addresses: tuple[str, str]) -> None:
    """Make the VE, stopped; addresses with prefix length, IPv4 and IPv6."""
    words = [ve, runtime, *addresses, "--", "/bin/sh", "/srv/start"]
    host.run("python3", "-", *words, text=Path(bundles.__file__).read_text())
    host.run("mkdir", "-p", f"/var/lib/migrator/ve/{ve}/rootfs/srv")
    host.run("sh", "-s", ve, str(BIG_BYTES), text=SYSTEM)
