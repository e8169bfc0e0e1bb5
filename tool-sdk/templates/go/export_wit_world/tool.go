// Package export_wit_world implements the world in wit/world.wit. The build writes what calls it.
package export_wit_world

import (
	"wit_component/greeting"

	"go.bytecodealliance.org/pkg/wit/types"
)

func Greet(name string) wit_types.Result[string, string] {
	said, err := greeting.Greet(name)
	if err != nil {
		return wit_types.Err[string, string](err.Error())
	}
	return wit_types.Ok[string, string](said)
}
