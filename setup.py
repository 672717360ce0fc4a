"""Package metadata comes from settings.ini, the one place where it is written."""
import json
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
REPORT = ("_quarto.yml", "_quarto-en.yml", "_quarto-ru.yml", "index.ipynb", "nbs/findings/**/*.*", "report/*.typ")

parser = ConfigParser(delimiters=["="])
parser.read(HERE / "settings.ini", encoding="utf-8")
config = parser["DEFAULT"]
NAME = config["lib_name"]


def requirements(words: str) -> list[str]:
    "Requirements, each other extra in them (`[lab]`) as an extra of this package"
    return [re.sub(r"^(?=\[)", NAME, word) for word in words.split()]


def without_outputs(notebook: str) -> str:
    "A notebook as it is before it was executed"
    found = json.loads(notebook)
    for cell in found["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(found, ensure_ascii=False)


class BuildWithReport(build_py):
    "The modules, and the notebooks of findings beside them, so that an installed report needs no checkout"

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for source in (path for pattern in REPORT for path in HERE.glob(pattern)):
            target = Path(self.build_lib, NAME, "book", source.relative_to(HERE))
            self.mkpath(str(target.parent))
            text = source.read_text(encoding="utf-8")
            target.write_text(without_outputs(text) if source.suffix == ".ipynb" else text, encoding="utf-8")


setup(
    name=NAME,
    version=config["version"],
    description=config["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    author=config["author"],
    keywords=config["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Framework :: Jupyter",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Natural Language :: Russian",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Software Development :: Libraries :: Python Modules",
        "Typing :: Typed",
    ],
    packages=[NAME],
    package_data={NAME: ["models/*", "py.typed", "web/*", "web/ort/*"]},
    python_requires=f">={config['min_python']}",
    install_requires=requirements(config["requirements"]),
    extras_require={
        name.removesuffix("_requirements"): requirements(words)
        for name, words in config.items()
        if name.endswith("_requirements")
    },
    entry_points={
        "console_scripts": config["console_scripts"].split(),
        "nbdev": [f"{NAME}={config['lib_path']}._modidx:d"],
    },
    cmdclass={"build_py": BuildWithReport},
)
