// Package greeting is the tool itself, apart from how it is called: so that a plain `go test` can test it.
package greeting

import "errors"

// Greet greets somebody.
func Greet(name string) (string, error) {
	if name == "" {
		return "", errors.New("the name must not be empty")
	}
	return "Hello, " + name + "!", nil
}
