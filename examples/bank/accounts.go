package main

import (
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
)

// A Transaction is the payload of every event. Its stream is the account, its
// tenant the district of the branch.
type Transaction struct {
	Number  int64  `json:"transaction"`
	Amount  int64  `json:"amount_halere"` // hundredths of a koruna, never negative
	Purpose string `json:"purpose"`
	Bank    string `json:"partner_bank"`
	Account string `json:"partner_account"`
}

// signs says of each type whether it adds to the balance.
var signs = map[string]int64{
	"CashDeposited":    +1,
	"TransferReceived": +1,
	"InterestCredited": +1,
	"CashWithdrawn":    -1,
	"CardWithdrawn":    -1,
	"TransferSent":     -1,
	"FeeCharged":       -1,
	"PenaltyCharged":   -1,
}

// signed returns what a transaction adds to the balance. An amount that cannot
// be stops its account, and no other.
func signed(e fairlead.Event[Transaction]) (int64, error) {
	if e.Data.Amount < 0 {
		return 0, fmt.Errorf("transaction %d has a negative amount: %d halere", e.Data.Number, e.Data.Amount)
	}
	return signs[e.Type] * e.Data.Amount, nil
}

// onEach returns f as the handler of every type.
func onEach[S any](name string, f func(*S, fairlead.Event[Transaction]) error) *fairlead.Projection[S] {
	var parts []projection.Part[S]
	for typ := range signs {
		parts = append(parts, fairlead.On(typ, f))
	}
	return fairlead.NewProjection(name, parts...)
}

// An Account is what the counter wants to know. Amounts are in halere.
type Account struct {
	Balance  int64  `json:"balance"`
	Credits  int64  `json:"credits"` // how many
	Credited int64  `json:"credited"`
	Debited  int64  `json:"debited"`
	LastOn   string `json:"last_on"` // a day
}

var accounts = onEach("accounts", func(a *Account, e fairlead.Event[Transaction]) error {
	amount, err := signed(e)
	if err != nil {
		return err
	}
	a.Balance += amount
	if signs[e.Type] > 0 {
		a.Credits++
		a.Credited += amount
	} else {
		a.Debited -= amount
	}
	a.LastOn = e.OccurredAt.Format(time.DateOnly)
	return nil
})

// A History is the statement of an account, from its opening on.
type History struct {
	Opened  event.Position `json:"opened"` // of the first event
	Entries []Entry        `json:"entries"`
}

// An Entry is a line of a statement.
type Entry struct {
	Version     int64  `json:"version"`
	On          string `json:"on"`
	Type        string `json:"type"`
	Transaction int64  `json:"transaction"`
	Amount      int64  `json:"amount"` // negative where it is paid out
	Balance     int64  `json:"balance"`
	Purpose     string `json:"purpose,omitzero"`
	Partner     string `json:"partner,omitzero"`
}

var histories = onEach("histories", func(h *History, e fairlead.Event[Transaction]) error {
	amount, err := signed(e)
	if err != nil {
		return err
	}
	balance := amount
	if n := len(h.Entries); n > 0 {
		balance += h.Entries[n-1].Balance
	} else {
		h.Opened = e.Position
	}
	partner := e.Data.Account
	if e.Data.Bank != "" {
		partner += "/" + e.Data.Bank
	}
	h.Entries = append(h.Entries, Entry{
		Version: e.Version, On: e.OccurredAt.Format(time.DateOnly), Type: e.Type,
		Transaction: e.Data.Number, Amount: amount, Balance: balance, Purpose: e.Data.Purpose, Partner: partner,
	})
	return nil
})
