"""Package metadata comes from settings.ini, the one place where it is written."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
config = parser["DEFAULT"]

setup(
    name=config["lib_name"],
    version=config["version"],
    description=config["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author=config["author"],
    keywords=config["keywords"].split(),
    packages=["pneumoprune"],
    package_data={"pneumoprune": ["models/*", "py.typed"]},
    python_requires=f">={config['min_python']}",
    install_requires=config["requirements"].split(),
    extras_require={"dev": config["dev_requirements"].split(), "dicom": ["pydicom"]},
    entry_points={
        "console_scripts": config["console_scripts"].split(),
        "nbdev": [f"{config['lib_name']}={config['lib_path']}._modidx:d"],
    },
)
