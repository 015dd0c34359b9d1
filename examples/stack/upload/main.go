// SPDX-License-Identifier: Apache-2.0

// Upload is the staging service of the example stack: PUT /NAME stores a file durably, GET /NAME
// returns it. It is as small as a service can be and still keep what it has acknowledged.
package main

import (
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"time"
)

const (
	staging   = "/staging"
	maxUpload = 64 << 20 // bytes
)

func main() {
	root, err := os.OpenRoot(staging)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /{name}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, store(root, r.PathValue("name"), http.MaxBytesReader(w, r.Body, maxUpload)))
	})
	mux.HandleFunc("GET /{name}", func(w http.ResponseWriter, r *http.Request) {
		f, err := root.Open(r.PathValue("name"))
		if err != nil {
			reply(w, err)
			return
		}
		defer f.Close()
		if _, err := io.Copy(w, f); err != nil {
			log.Print(err)
		}
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// store writes under a temporary name and renames, so that a file is either whole or absent; it
// answers only after file and directory are on disk.
func store(root *os.Root, name string, body io.Reader) error {
	if name == "" || name[0] == '.' {
		return fs.ErrInvalid
	}
	part := ".part-" + name
	f, err := root.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, root.Remove(part))
	}
	if err := root.Rename(part, name); err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func reply(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		w.WriteHeader(http.StatusCreated)
	case errors.As(err, &tooLarge):
		http.Error(w, "file too large", http.StatusRequestEntityTooLarge)
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, "no such file", http.StatusNotFound)
	case errors.Is(err, fs.ErrInvalid):
		http.Error(w, "no such name", http.StatusBadRequest)
	default:
		log.Print(err)
		http.Error(w, "could not store the file", http.StatusInternalServerError)
	}
}
