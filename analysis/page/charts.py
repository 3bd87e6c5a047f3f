"""The charts' library: Vega and its interpreter of expressions, one script with their licence."""

from functools import lru_cache

import vl_convert

_LICENSE = """\
Vega {vega} and its interpreter of expressions, bundled by vl-convert.

Copyright (c) 2015-2025, University of Washington Interactive Data Lab. All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions
   and the following disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions
   and the following disclaimer in the documentation and/or other materials provided with the
   distribution.
3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse
   or promote products derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF
THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""


_BUNDLED = """
// The addresses are the names under which vl-convert holds the modules; nothing is fetched.
import {{ View, parse }} from "https://cdn.jsdelivr.net/npm/vega@{vega}/+esm";
import {{ expressionInterpreter }} from "https://cdn.jsdelivr.net/npm/vega-interpreter@2.0.0/+esm";
window.vegaCharts = {{ View, parse, expressionInterpreter }};
"""


@lru_cache(maxsize=1)
def chart_script() -> str:
    """Give the script; it defines ``window.vegaCharts`` and asks for nothing.

    The interpreter comes along since the page's content security policy forbids ``eval``. What the
    browser draws is compiled beforehand (`analysis.page.chart_specs`), so Vega-Lite isn't in it.
    """
    vega = vl_convert.get_vega_version()
    bundle = vl_convert.javascript_bundle(_BUNDLED.format(vega=vega))
    # A module's names stay its own.
    return f"/*!\n{_LICENSE.format(vega=vega)}*/\n(() => {{\n{bundle}\n}})();\n"
