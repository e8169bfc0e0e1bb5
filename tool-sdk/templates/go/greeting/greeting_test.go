package greeting

import "testing"

func TestGreetsByName(t *testing.T) {
	if said, err := Greet("World"); err != nil || said != "Hello, World!" {
		t.Fatal(said, err)
	}
	if _, err := Greet(""); err == nil {
		t.Fatal("greeted nobody")
	}
}
