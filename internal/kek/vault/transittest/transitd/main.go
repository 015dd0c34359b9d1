// SPDX-License-Identifier: Apache-2.0

// Command transitd serves the transit and AppRole engines of Vault on the address that is its argument, for tests in a guest.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/voluks/voluks/internal/kek/vault/transittest"
)

func main() {
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "transitd:", err)
		os.Exit(1)
	}
}

func serve(address string) error {
	s, err := transittest.New(context.Background())
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return http.Serve(listener, s)
}
