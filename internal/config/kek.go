// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"reflect"
	"strings"
	"time"
)

// KEK selects a key provider. Only the settings of the selected one are set. What each setting means is in
// docs/key-providers.md; none of them is secret, secrets are in the files that they name.
type KEK struct {
	// Provider is the name of the provider: that of one of the fields below, in lower case.
	Provider string
	// Timeout is how long it may take for one call; 0 is the default.
	Timeout    time.Duration
	File       *File       // set if Provider is "file", and so on
	KeyDir     *KeyDir     // of "keydir"
	Credential *Credential // of "credential"
	AWSKMS     *AWSKMS     // of "awskms"
	Vault      *Vault      // of "vault"
	Clevis     *Clevis     // of "clevis"
	Exec       *Exec       // of "exec"
}

// The settings of the providers, as they stand in the file. Their tags are the names of the settings.
type (
	// File is a file of 32 random bytes.
	File struct {
		Path string `toml:"path"` // of the key: 32 raw bytes
	}
	// KeyDir is a directory of such files, one per volume.
	KeyDir struct {
		Path string `toml:"path"` // of the directory with a key file per volume
	}
	// Credential is a systemd credential.
	Credential struct {
		Name       string `toml:"name"`        // as systemd knows it
		Path       string `toml:"path"`        // of the encrypted credential
		TPM2Device string `toml:"tpm2_device"` // "auto", or a device; for systemd-creds
	}
	// AWSKMS is a key of AWS KMS.
	AWSKMS struct {
		KeyID    string `toml:"key_id"`   // id, ARN or alias
		Region   string `toml:"region"`   // "": by the standard chain
		Profile  string `toml:"profile"`  // "": by the standard chain
		Endpoint string `toml:"endpoint"` // URL; "": that of the region
	}
	// Vault is a key of the transit engine of Vault or OpenBao.
	Vault struct {
		Address        string       `toml:"address"`          // URL, or unix:// and the path of an agent's socket
		Mount          string       `toml:"mount"`            // where the transit engine is mounted
		Key            string       `toml:"key"`              // its name in the engine
		Namespace      string       `toml:"namespace"`        // "": none
		Derived        bool         `toml:"derived"`          // the key is a derived one, and takes a context
		TokenFile      string       `toml:"token_file"`       // path
		CAFile         string       `toml:"ca_file"`          // path; PEM; "": the system's
		ServerName     string       `toml:"server_name"`      // that the certificate must have; "": the host of Address
		ClientCertFile string       `toml:"client_cert_file"` // path; PEM
		ClientKeyFile  string       `toml:"client_key_file"`  // path; PEM
		AppRole        VaultAppRole `toml:"approle"`          // instead of a token
	}
	// VaultAppRole is a way to log in to Vault; the zero value is none.
	VaultAppRole struct {
		Mount        string `toml:"mount"`          // where the method is mounted
		RoleID       string `toml:"role_id"`        // public
		SecretIDFile string `toml:"secret_id_file"` // path
	}
	// Clevis is a policy of Clevis.
	Clevis struct {
		Pin    string `toml:"pin"`    // such as "tang" or "sss"
		Policy string `toml:"policy"` // JSON, as clevis takes it
	}
	// Exec is a program of the operator.
	Exec struct {
		Command []string `toml:"command"` // the program by its absolute path, and its arguments
		ID      string   `toml:"id"`      // public name of the key that the program keeps
	}
)

// selected turns the table of the selected provider into a KEK, and checks that nothing is missing that the provider needs.
// What is there is the provider's to judge. Defaults come from p, or there are none if p is nil.
func (t *kekTable) selected(at string, found keysFound, bad func(string, string, ...any), p *Paths) KEK {
	kek := KEK{Provider: t.Provider, Timeout: t.timeout(at, found, bad)}
	at += "." + t.Provider + "."
	need := func(setting, value, what string) {
		if value == "" {
			bad(at+setting, "is missing; it is %s", what)
		}
	}
	defaultPath := func(setting, path string) string {
		if p == nil || path != "" || found.has(at+setting) {
			return path
		}
		return map[string]string{"file": p.MasterKey(), "credential": p.MasterCredential()}[t.Provider]
	}
	switch t.Provider {
	case "file":
		kek.File = &File{Path: defaultPath("path", t.File.Path)}
		checkPath(at+"path", kek.File.Path, bad)
	case "keydir":
		kek.KeyDir = &t.KeyDir
		checkPath(at+"path", t.KeyDir.Path, bad)
	case "credential":
		kek.Credential = &t.Credential
		kek.Credential.Path = defaultPath("path", t.Credential.Path)
		checkPath(at+"path", kek.Credential.Path, bad)
	case "awskms":
		kek.AWSKMS = &t.AWSKMS
		need("key_id", t.AWSKMS.KeyID, "the ARN of a symmetric KMS key")
	case "vault":
		v := &t.Vault
		kek.Vault = v
		need("address", v.Address, "https://HOST:PORT, or unix:///PATH of an agent's socket")
		need("key", v.Key, "the name of a key of the transit engine")
		for setting, path := range map[string]string{"token_file": v.TokenFile, "ca_file": v.CAFile, "client_cert_file": v.ClientCertFile,
			"client_key_file": v.ClientKeyFile, "approle.secret_id_file": v.AppRole.SecretIDFile} {
			if path != "" {
				checkPath(at+setting, path, bad)
			}
		}
		if found.has(at + "approle") {
			need("approle.role_id", v.AppRole.RoleID, "the role's id")
			need("approle.secret_id_file", v.AppRole.SecretIDFile, "the absolute path of a file that holds the secret id")
		}
	case "clevis":
		kek.Clevis = &t.Clevis
		need("pin", t.Clevis.Pin, "tang, tpm2, pkcs11 or sss")
		need("policy", t.Clevis.Policy, `the pin's configuration in JSON, as "clevis encrypt" takes it`)
	case "exec":
		kek.Exec = &t.Exec
		if len(t.Exec.Command) == 0 {
			bad(at+"command", `is missing; it is a list: ["/PATH/OF/PROGRAM", "ARGUMENT"]`)
		} else if !filepath.IsAbs(t.Exec.Command[0]) {
			bad(at+"command", "%q is not the absolute path of a program", t.Exec.Command[0])
		}
		need("id", t.Exec.ID, "a name of your choice for the key that the program uses")
	}
	return kek
}

// The limits of timeout: Docker gives up a mount after two minutes, in which other things must happen too.
const minTimeout, maxTimeout = time.Second, time.Minute

func (t *kekTable) timeout(at string, found keysFound, bad func(string, string, ...any)) time.Duration {
	if !found.has(at + ".timeout") {
		return 0
	}
	d, err := ParseDuration(t.Timeout)
	switch {
	case err != nil:
		bad(at+".timeout", "%v", err)
	case d < minTimeout || d > maxTimeout:
		bad(at+".timeout", "%q is not between %s and %s", t.Timeout, DurationText(minTimeout), DurationText(maxTimeout))
	}
	return d
}

// same says whether two selections name one key.
func same(a, b KEK) bool {
	a.Timeout, b.Timeout = 0, 0
	return a.Provider != "" && reflect.DeepEqual(a, b)
}

// renderTable writes the settings of a provider that are set, under the header [NAME].
func renderTable(line func(string, ...any), name string, settings reflect.Value) {
	line("[%s]", name)
	var below []int
	for i := range settings.NumField() {
		value, setting := settings.Field(i), settings.Type().Field(i).Tag.Get("toml")
		switch {
		case value.IsZero():
		case value.Kind() == reflect.Struct:
			below = append(below, i)
		case value.Kind() == reflect.Bool:
			line("%s = %t", setting, value.Bool())
		case value.Kind() == reflect.Slice:
			var list []string
			for j := range value.Len() {
				list = append(list, quote(value.Index(j).String()))
			}
			line("%s = [%s]", setting, strings.Join(list, ", "))
		default:
			line("%s = %s", setting, quote(value.String()))
		}
	}
	line("")
	for _, i := range below {
		renderTable(line, name+"."+settings.Type().Field(i).Tag.Get("toml"), settings.Field(i))
	}
}

// otherProviders is shown in each rendered file, commented out. Once the signs are taken away it must be right.
const otherProviders = `The keys need not lie on this node. Other providers, of which docs/key-providers.md tells more:
provider = "keydir"       # a key file per volume, in somebody's custody
[kek.keydir]
path = "/media/keys"

provider = "credential"   # a systemd credential, sealed to the TPM
[kek.credential]
name = "voluks-kek"
path = "/etc/credstore.encrypted/voluks-kek"
tpm2_device = "/dev/tpmrm0"

provider = "awskms"       # AWS KMS
[kek.awskms]
key_id = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
region = "eu-central-1"
profile = "voluks"
endpoint = "https://vpce-0123.kms.eu-central-1.vpce.amazonaws.com"

provider = "vault"        # HashiCorp Vault or OpenBao, transit engine
[kek.vault]
address = "https://vault.example:8200"
mount = "transit"
key = "voluks"
derived = true
namespace = "team"
ca_file = "/etc/voluks/vault-ca.pem"
server_name = "vault.example"
client_cert_file = "/etc/voluks/vault-client.pem"
client_key_file = "/etc/voluks/vault-client.key"
token_file = "/run/vault/token" # or:
[kek.vault.approle]
mount = "approle"
role_id = "8c2d1f0e-1111-2222-3333-444455556666"
secret_id_file = "/etc/voluks/vault-secret-id"

provider = "clevis"       # Clevis: tang, tpm2, pkcs11, or a threshold (sss) over several
[kek.clevis]
pin = "tang"
policy = '{"url":"http://tang.example","thp":"YckKN5EwSrVuUDOAtf9DTYMqQzYlGRU5cqzzPSvYRRY"}'

provider = "exec"         # a program of yours
[kek.exec]
command = ["/usr/local/lib/voluks/kek-helper", "/etc/voluks/helper"]
id = "example"`
