"""Implements the world in wit/world.wit: a method for each of its functions."""

from componentize_py_types import Err

import greeting
import wit_world


class WitWorld(wit_world.WitWorld):
    def greet(self, name: str) -> str:
        try:
            return greeting.greet(name)
        except ValueError as error:
            raise Err(str(error))
