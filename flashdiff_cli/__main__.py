"""python -m flashdiff_cli"""

from flashdiff_cli.commands.app import main

main()
