package export_wit_world

import (
	"fmt"
	"os"

	config "wit_component/wasi_config_store"
	keyvalue "wit_component/wasi_keyvalue_store"
	logging "wit_component/wasi_logging_logging"

	"go.bytecodealliance.org/pkg/wit/types"
)

func Keep(value string) wit_types.Result[string, string] {
	bucket := keyvalue.Open("").Ok()
	if bucket.Set("kept", []byte(value)).IsErr() {
		return wit_types.Err[string, string]("not kept")
	}
	kept := bucket.Get("kept").Ok().Some()
	logging.Log(logging.LevelWarn, "go", value)
	text, err := os.ReadFile("/data/file.txt")
	if err != nil {
		return wit_types.Err[string, string](err.Error())
	}
	region := config.Get("region").Ok().Some()
	return wit_types.Ok[string, string](fmt.Sprintf("%s, %s, %s", kept, region, text))
}
