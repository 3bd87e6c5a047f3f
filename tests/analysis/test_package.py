"""What importing the package brings along."""

import subprocess
import sys


def test_neither_torch_nor_ray_is_loaded():
    code = "import analysis, sys; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
