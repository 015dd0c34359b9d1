// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The guest has no registry: its image of PostgreSQL has another name, and its data in another place.
var inTheGuest = strings.NewReplacer("image: postgres:17", "image: voluks-demo/stack\n    pull_policy: never\n    network_mode: none", "/var/lib/postgresql/data", "/data")

var migrateBlock = regexp.MustCompile("(?s)(?:<!-- file: ([a-z.]+) -->\n)?```(sh|yaml)\n(.*?)```")

// docs/migrate.md, every command of it as it is written, takes a PostgreSQL that is being written to into an encrypted volume. All that was committed is
// there, nothing is in clear in the image, and the downtime is the last pass.
func TestMigrateDoc(t *testing.T) {
	full(t)
	text, err := os.ReadFile("/mnt/src/docs/migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "shop")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	// sql asks the database as soon as it answers. One process of Docker costs seconds in the guest.
	sql := func(statement string) (out string) {
		t.Helper()
		eventually(t, func() (err error) {
			out, err = try("docker", "exec", "shop-db-1", "/usr/lib/postgresql/17/bin/psql", "-h", "127.0.0.1", "-U", "postgres", "-qAtc", statement)
			return err
		})
		return strings.TrimSpace(out)
	}
	t.Cleanup(func() {
		try("docker", "compose", "down", "--volumes", "--timeout", "10")
		eventually(t, func() error { return closed("shop_pgdata") })
	})
	up, down := time.Time{}, time.Duration(0)
	const rows = "select count(*) || ' ' || sum(n) from orders"
	before, files, retired := "", 0, false
	for _, b := range migrateBlock.FindAllStringSubmatch(string(text), -1) {
		file, kind, body := b[1], b[2], b[3]
		if kind == "yaml" {
			files++
			if err := os.WriteFile(file, []byte(inTheGuest.Replace(body)), 0o600); err != nil {
				t.Fatal(err)
			}
			if files == 1 { // a stack that runs already
				output(t, "docker", "compose", "--progress", "quiet", "up", "-d")
				sql("create table orders as select n, 'a secret order' as what from generate_series(1, 5000) n")
			}
			continue
		}
		for line := range strings.Lines(body) {
			line = strings.TrimSpace(line)
			if line == "docker compose down" {
				before = sql("insert into orders select n, 'a secret order' from generate_series(5001, 6000) n; " + rows) // after the first pass
				up = time.Now()
			}
			out, err := try("sh", "-c", strings.Replace(line, "docker compose", "docker compose --progress quiet", 1))
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			t.Logf("$ %s\n%s", line, out)
			if strings.HasPrefix(line, "docker compose up") {
				after := sql(rows)
				if down = time.Since(up); after != before || after == "" {
					t.Errorf("orders before %s, after %s", before, after)
				}
			}
			if strings.Contains(line, "--swap") && !strings.Contains(out, "verified: all") {
				t.Errorf("%s: %s", line, out)
			}
			if strings.Contains(line, "--retire-source") {
				retired = strings.Contains(out, "verified once more: ") && strings.Contains(out, "logical only")
			}
		}
	}
	if files != 2 || before == "" || down == 0 || !retired {
		t.Fatalf("the page has %d files, and its commands did not all run", files)
	}
	t.Logf("downtime %v", down)
	if left, err := filepath.Glob("/var/lib/docker/voluks-plain/*"); err != nil || len(left) > 0 {
		t.Errorf("plain data that is left: %v, %v", left, err)
	}
	info := inspect(t, "shop_pgdata")
	if info.State != "mounted" || len(info.Holders) != 1 {
		t.Errorf("in the end: %+v", info)
	}
	output(t, "sync")
	if out, err := try("grep", "-c", "-a", "a secret order", "/var/lib/voluks/volumes/shop_pgdata/image"); err == nil {
		t.Errorf("in clear in the image: %s", out)
	}
	output(t, "grep", "-rqa", "a secret order", info.Mountpoint) // the search finds what there is
}
