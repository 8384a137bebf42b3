from upscore.cli import main

main()
