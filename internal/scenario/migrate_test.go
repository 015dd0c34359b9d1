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
	sql := func(statement string) string {
		t.Helper()
		return output(t, "docker", "compose", "exec", "-T", "db", "/usr/lib/postgresql/17/bin/psql", "-h", "127.0.0.1", "-U", "postgres", "-qAtc", statement)
	}
	ready := func() {
		t.Helper()
		eventually(t, func() error {
			_, err := try("docker", "compose", "exec", "-T", "db", "/usr/lib/postgresql/17/bin/psql", "-h", "127.0.0.1", "-U", "postgres", "-qAtc", "select 1")
			return err
		})
	}
	t.Cleanup(func() {
		try("docker", "compose", "down", "--volumes", "--timeout", "10")
		eventually(t, func() error { return closed("shop_pgdata") })
	})
	up, down := time.Time{}, time.Duration(0)
	const rows = "select count(*) || ' ' || sum(n) from orders"
	before, files := "", 0
	for _, b := range migrateBlock.FindAllStringSubmatch(string(text), -1) {
		file, kind, body := b[1], b[2], b[3]
		if kind == "yaml" {
			files++
			if err := os.WriteFile(file, []byte(inTheGuest.Replace(body)), 0o600); err != nil {
				t.Fatal(err)
			}
			if files == 1 { // a stack that runs already
				output(t, "docker", "compose", "--progress", "quiet", "up", "-d")
				ready()
				sql("create table orders (n int, what text)")
				sql("insert into orders select n, 'a secret order' from generate_series(1, 5000) n")
			}
			continue
		}
		for line := range strings.Lines(body) {
			line = strings.TrimSpace(line)
			if line == "docker compose down" {
				sql("insert into orders select n, 'a secret order' from generate_series(5001, 6000) n") // after the first pass
				before = sql(rows)
				up = time.Now()
			}
			out, err := try("sh", "-c", strings.Replace(line, "docker compose", "docker compose --progress quiet", 1))
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			t.Logf("$ %s\n%s", line, out)
			if strings.HasPrefix(line, "docker compose up") {
				ready()
				down = time.Since(up)
				if after := sql(rows); after != before {
					t.Errorf("orders before %s, after %s", before, after)
				}
			}
			if strings.Contains(line, "--swap") && !strings.Contains(out, "verified: all") {
				t.Errorf("%s: %s", line, out)
			}
		}
	}
	if files != 2 || before == "" || down == 0 {
		t.Fatalf("the page has %d files, and its commands did not all run", files)
	}
	t.Logf("downtime %v", down)
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
