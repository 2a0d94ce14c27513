"""``python -m cnnexport``: the console script, where that is not on the path."""

from cnnexport.start import main

if __name__ == "__main__":
    main()
