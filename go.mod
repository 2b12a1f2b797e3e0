module github.com/fairlead-dev/fairlead

go 1.26
