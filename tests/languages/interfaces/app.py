import wit_world
from wit_world.imports import logging, wasi_config_store, wasi_keyvalue_store


class WitWorld(wit_world.WitWorld):
    def keep(self, value: str) -> str:
        bucket = wasi_keyvalue_store.open("")
        bucket.set("kept", value.encode())
        logging.log(logging.Level.WARN, "python", value)
        with open("/data/file.txt", encoding="utf-8") as file:
            text = file.read()
        return f"{bucket.get('kept').decode()}, {wasi_config_store.get('region')}, {text}"
