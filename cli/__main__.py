from gatestream.cli.main import main

main(prog_name="gatestream")
