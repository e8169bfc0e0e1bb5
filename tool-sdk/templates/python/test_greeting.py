import unittest

from greeting import greet


class Greeting(unittest.TestCase):
    def test_greets_by_name(self):
        self.assertEqual(greet("World"), "Hello, World!")
        with self.assertRaises(ValueError):
            greet("")
