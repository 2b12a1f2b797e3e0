// Package shop has the messages that the tests of the formats read.
package shop
