"""UCUM codes as pint reads them."""
import unittest

from marey.units import quantity, to_pint


class Units(unittest.TestCase):
    def test_codes_of_sensors(self):
        expected = {"m/s2": "m/s**2", "rad/s": "rad/s", "uS": "uS", "Cel": "degC", "mV": "mV", "%": "percent", "kOhm": "kohm",
                    "{beats}/min": "1/minute", "kg.m2": "kg*m**2", "s-1": "s**-1", "[g]": "standard_gravity", "1": "dimensionless",
                    "10*3/uL": "10**3/uL", "10^-6": "10**-6", "10*": "10**1"}
        for code, text in expected.items():
            self.assertEqual(to_pint(code), text, code)

    def test_pint_takes_them(self):
        try:
            import pint
        except ImportError:
            self.skipTest("pint is not installed")
        registry = pint.get_application_registry()
        for code, base in {"m/s2": "meter / second ** 2", "mV": "millivolt", "uS": "microsiemens", "kOhm": "kiloohm",
                           "{beats}/min": "1 / minute", "deg/s": "degree / second", "hPa": "hectopascal", "uT": "microtesla"}.items():
            self.assertEqual(str(quantity([1.0], code).units), base, code)
        self.assertAlmostEqual(quantity([2.0], "[g]").to(registry("m/s**2")).magnitude[0], 19.6133)
        for code, count in {"10*3/uL": 2000, "10*-3/uL": 0.002, "/uL.10^2": 200, "{cells}/10*2/uL": 0.02}.items():
            self.assertAlmostEqual(quantity([2.0], code).to("1/uL").magnitude[0], count, msg=code)
        with self.assertRaisesRegex(ValueError, "no_such_unit"):
            quantity([1.0], "no_such_unit")


if __name__ == "__main__":
    unittest.main()
