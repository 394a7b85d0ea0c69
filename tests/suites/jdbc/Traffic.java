import java.security.MessageDigest;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.SplittableRandom;
import java.util.concurrent.CountDownLatch;
import org.postgresql.PGConnection;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

/**
 * What an application does to a database over JDBC, step by step: one JSON line a step, exit 1 at the first that fails.
 *
 * <p>The step {@code soak} keeps its connections for {@code -Dsoak.seconds}.
 *
 * <p>{@code java Traffic HOST:PORT/DATABASE ROOT_CERTIFICATE [STEP…]}, all steps where none is named; user and
 * password come from PGUSER and PGPASSWORD.
 */
public final class Traffic {
    private static final int BATCH_ROWS = 10_000;
    private static final int CURSOR_ROWS = 1_000_000;
    private static final int FETCH_ROWS = 10_000;
    private static final int LARGE_OBJECT_BYTES = 64 * 1024 * 1024;
    private static final int PIECE_BYTES = 256 * 1024;
    private static final int SOAKING = 8;
    private static final int SOAK_PAUSE_MS = 100;

    private interface Step {
        String run(Connection connection) throws Exception;
    }

    private final String url;
    private final Properties options = new Properties();

    private Traffic(String target, String rootCertificate) {
        url = "jdbc:postgresql://" + target;
        options.setProperty("user", System.getenv("PGUSER"));
        options.setProperty("password", System.getenv("PGPASSWORD"));
        // The listener has another name than the database, so the chain is checked and not the host.
        options.setProperty("sslmode", "verify-ca");
        options.setProperty("sslrootcert", rootCertificate);
        options.setProperty("connectTimeout", "30");
        options.setProperty("socketTimeout", "120");
        options.setProperty("tcpKeepAlive", "true");
    }

    public static void main(String[] args) {
        Traffic traffic = new Traffic(args[0], args[1]);
        Map<String, Step> steps = new LinkedHashMap<>();
        steps.put("tls", traffic::tls);
        steps.put("prepared_statements", traffic::preparedStatements);
        steps.put("batch", traffic::batch);
        steps.put("cursor", traffic::cursor);
        steps.put("large_object", traffic::largeObject);
        steps.put("cancel", traffic::cancel);
        if (args.length > 2) {
            // It takes as long as it is told, so it is run only where it is named.
            steps.put("soak", traffic::soak);
            steps.keySet().retainAll(List.of(args).subList(2, args.length));
        }
        steps.forEach(traffic::step);
    }

    private void step(String name, Step step) {
        long started = System.nanoTime();
        try (Connection connection = DriverManager.getConnection(url, options)) {
            String found = step.run(connection);
            long millis = (System.nanoTime() - started) / 1_000_000;
            System.out.printf("{\"step\":\"%s\",\"ok\":true,\"ms\":%d,%s}%n", name, millis, found);
        } catch (Exception | AssertionError error) {
            String reason = error.toString().replaceAll("[\"\\\\\\p{Cntrl}]", " ");
            System.out.printf("{\"step\":\"%s\",\"ok\":false,\"error\":\"%s\"}%n", name, reason);
            error.printStackTrace();
            System.exit(1);
        }
    }

    /** The server itself must say that this very connection is encrypted: nobody ended TLS on the way. */
    private String tls(Connection connection) throws SQLException {
        try (Statement ask = connection.createStatement();
                ResultSet answer = ask.executeQuery(
                        "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")) {
            check(answer.next() && answer.getBoolean("ssl"), "the database does not see TLS on this connection");
            return "\"version\":\"" + answer.getString("version") + "\"";
        }
    }

    private String preparedStatements(Connection connection) throws SQLException {
        int rounds = 1000;
        try (PreparedStatement ask = connection.prepareStatement("SELECT ?::int + 1, ?::text, ?::bytea")) {
            for (int round = 0; round < rounds; round++) {
                String text = "Zeile " + round + " – 漢字";
                byte[] bytes = randomBytes(round, round % 4096);
                ask.setInt(1, round);
                ask.setString(2, text);
                ask.setBytes(3, bytes);
                try (ResultSet answer = ask.executeQuery()) {
                    check(answer.next(), "no row");
                    check(answer.getInt(1) == round + 1, "wrong number in round " + round);
                    check(answer.getString(2).equals(text), "wrong text in round " + round);
                    check(java.util.Arrays.equals(answer.getBytes(3), bytes), "wrong bytes in round " + round);
                }
            }
        }
        return "\"rounds\":" + rounds;
    }

    private String batch(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement ddl = connection.createStatement()) {
            ddl.execute("CREATE TEMPORARY TABLE batch (id int PRIMARY KEY, note text)");
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO batch VALUES (?, ?)")) {
            for (int row = 0; row < BATCH_ROWS; row++) {
                insert.setInt(1, row);
                insert.setString(2, "note " + row);
                insert.addBatch();
            }
            for (int count : insert.executeBatch()) {
                check(count == 1, "a statement of the batch did not insert its row");
            }
        }
        connection.commit();
        try (Statement ask = connection.createStatement();
                ResultSet answer = ask.executeQuery(
                        "SELECT count(*), sum(id), count(*) FILTER (WHERE note = 'note ' || id) FROM batch")) {
            check(answer.next(), "no row");
            check(answer.getInt(1) == BATCH_ROWS && answer.getInt(3) == BATCH_ROWS, "rows are missing or altered");
            check(answer.getLong(2) == (long) BATCH_ROWS * (BATCH_ROWS - 1) / 2, "the ids do not add up");
        }
        return "\"rows\":" + BATCH_ROWS;
    }

    private String cursor(Connection connection) throws SQLException {
        connection.setAutoCommit(false); // without a transaction the driver would fetch everything at once
        try (PreparedStatement ask = connection.prepareStatement(
                "SELECT i, md5(i::text) FROM generate_series(1, ?) AS i")) {
            ask.setInt(1, CURSOR_ROWS);
            ask.setFetchSize(FETCH_ROWS);
            int rows = 0;
            long digest = 0;
            try (ResultSet answer = ask.executeQuery()) {
                while (answer.next()) {
                    rows++;
                    check(answer.getInt(1) == rows, "row " + rows + " is out of order");
                    digest = digest * 31 + answer.getString(2).hashCode();
                }
            }
            check(rows == CURSOR_ROWS, "only " + rows + " rows arrived");
            check(digest == expectedCursorDigest(), "the rows' contents differ");
        }
        return "\"rows\":" + CURSOR_ROWS + ",\"fetch_rows\":" + FETCH_ROWS;
    }

    /** What the million rows must digest to, worked out here and not asked of the database. */
    private static long expectedCursorDigest() {
        try {
            MessageDigest md5 = MessageDigest.getInstance("MD5");
            long digest = 0;
            for (int row = 1; row <= CURSOR_ROWS; row++) {
                byte[] hash = md5.digest(Integer.toString(row).getBytes(java.nio.charset.StandardCharsets.US_ASCII));
                digest = digest * 31 + HexFormat.of().formatHex(hash).hashCode();
            }
            return digest;
        } catch (java.security.NoSuchAlgorithmException impossible) {
            throw new AssertionError("every Java has MD5", impossible);
        }
    }

    private String largeObject(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long id = manager.createLO(LargeObjectManager.READWRITE);
        MessageDigest written = MessageDigest.getInstance("SHA-256");
        try (LargeObject object = manager.open(id, LargeObjectManager.WRITE)) {
            for (int at = 0; at < LARGE_OBJECT_BYTES; at += PIECE_BYTES) {
                byte[] bytes = randomBytes(at, PIECE_BYTES);
                written.update(bytes);
                object.write(bytes);
            }
        }
        connection.commit();

        MessageDigest read = MessageDigest.getInstance("SHA-256");
        long length = 0;
        try (LargeObject object = manager.open(id, LargeObjectManager.READ)) {
            byte[] buffer = new byte[PIECE_BYTES];
            for (int count; (count = object.read(buffer, 0, PIECE_BYTES)) > 0; length += count) {
                read.update(buffer, 0, count);
            }
        }
        manager.delete(id);
        connection.commit();
        check(length == LARGE_OBJECT_BYTES, length + " bytes came back");
        String hash = HexFormat.of().formatHex(written.digest());
        check(hash.equals(HexFormat.of().formatHex(read.digest())), "the large object came back altered");
        return "\"bytes\":" + length + ",\"sha256\":\"" + hash + "\"";
    }

    /** cancel() opens a second connection to the same address: it too must find its way. */
    private String cancel(Connection connection) throws Exception {
        try (Statement sleep = connection.createStatement()) {
            CountDownLatch ready = new CountDownLatch(1);
            Thread canceller = new Thread(() -> {
                try {
                    ready.await();
                    awaitSleeping();
                    sleep.cancel();
                } catch (Exception error) {
                    error.printStackTrace(); // the sleep then runs into its own limit below
                }
            });
            canceller.start();
            try (Statement limit = connection.createStatement()) {
                limit.execute("SET statement_timeout = '60s'");
                limit.execute("SET application_name = 'cancelled'");
            }
            ready.countDown();
            try {
                sleep.execute("SELECT pg_sleep(3600)");
                throw new AssertionError("pg_sleep(3600) came to its end");
            } catch (SQLException error) {
                check("57014".equals(error.getSQLState()), "SQLSTATE " + error.getSQLState());
                check(error.getMessage().contains("user request"), error.getMessage());
            }
            canceller.join();
        }
        try (Statement ask = connection.createStatement(); ResultSet answer = ask.executeQuery("SELECT 1")) {
            check(answer.next(), "the connection is of no use after cancel()");
        }
        return "\"sqlstate\":\"57014\"";
    }

    /** Waits until the database says that the statement to be cancelled is running. */
    private void awaitSleeping() throws SQLException {
        try (Connection watcher = DriverManager.getConnection(url, options);
                PreparedStatement ask = watcher.prepareStatement(
                        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'cancelled'"
                                + " AND state = 'active' AND wait_event = 'PgSleep'")) {
            for (boolean sleeping = false; !sleeping;) {
                try (ResultSet answer = ask.executeQuery()) {
                    sleeping = answer.next();
                }
            }
        }
    }

    /** Threads with a connection each that is kept to the end: transactions with their sums, large values, rollbacks. */
    private String soak(Connection unused) throws Exception {
        long until = System.nanoTime() + Long.getLong("soak.seconds", 15) * 1_000_000_000L;
        List<Keeper> keepers = new ArrayList<>();
        for (int number = 0; number < SOAKING; number++) {
            keepers.add(new Keeper(number, until));
        }
        keepers.forEach(Thread::start);
        long rounds = 0, rows = 0, bytes = 0, opened = 0, slowest = 0;
        for (Keeper keeper : keepers) {
            keeper.join();
            if (keeper.failure != null) {
                throw new Exception("connection " + keeper.number + " in round " + keeper.rounds, keeper.failure);
            }
            rounds += keeper.rounds;
            rows += keeper.rows;
            bytes += keeper.bytes;
            opened += keeper.opened;
            slowest = Math.max(slowest, keeper.slowest);
        }
        check(rounds > 0, "nothing was done");
        return "\"connections\":" + SOAKING + ",\"rounds\":" + rounds + ",\"rows\":" + rows + ",\"bytes\":" + bytes
                + ",\"opened\":" + opened + ",\"slowest_ms\":" + slowest / 1_000_000;
    }

    private final class Keeper extends Thread {
        private final int number;
        private final long until;
        private volatile Throwable failure;
        private long rounds, rows, bytes, opened, slowest;

        Keeper(int number, long until) {
            this.number = number;
            this.until = until;
        }

        @Override
        public void run() {
            try (Connection kept = DriverManager.getConnection(url, options)) {
                kept.setAutoCommit(false);
                try (Statement ddl = kept.createStatement()) {
                    ddl.execute("CREATE TEMPORARY TABLE ledger (id bigint PRIMARY KEY, amount bigint, note bytea)");
                }
                kept.commit();
                while (System.nanoTime() < until) {
                    long started = System.nanoTime();
                    round(kept);
                    slowest = Math.max(slowest, System.nanoTime() - started);
                    rounds++;
                    // An application thinks, too; and half an hour of this must leave the machine to others.
                    Thread.sleep(SOAK_PAUSE_MS);
                }
            } catch (Throwable error) {
                failure = error;
            }
        }

        /** One transaction that stays, one that does not, and a look at what there is. */
        private void round(Connection kept) throws SQLException {
            insert(kept, 20);
            kept.commit();
            rows += 20;
            insert(kept, 5);
            kept.rollback();
            try (Statement ask = kept.createStatement();
                    ResultSet sums = ask.executeQuery("SELECT count(*), coalesce(sum(amount), 0) FROM ledger")) {
                check(sums.next() && sums.getLong(1) == rows, "there are not " + rows + " rows");
                check(sums.getLong(2) == rows * (rows - 1) / 2 * 3, "the amounts do not add up");
            }
            int length = 1 + new SplittableRandom(rounds).nextInt(256 * 1024);
            byte[] note = randomBytes(rounds, length);
            try (PreparedStatement echo = kept.prepareStatement("SELECT ?::bytea")) {
                echo.setBytes(1, note);
                try (ResultSet answer = echo.executeQuery()) {
                    check(answer.next() && java.util.Arrays.equals(answer.getBytes(1), note), "the note is another one");
                }
            }
            bytes += 2L * length;
            kept.commit();
            if (rounds % 50 == number) {
                // As a pool that grows: a new connection, in the midst of cuts.
                try (Connection more = DriverManager.getConnection(url, options)) {
                    check(more.isValid(60), "a new connection is of no use");
                    opened++;
                }
            }
        }

        private void insert(Connection kept, int count) throws SQLException {
            try (PreparedStatement insert = kept.prepareStatement("INSERT INTO ledger VALUES (?, ?, ?)")) {
                for (long row = rows; row < rows + count; row++) {
                    insert.setLong(1, row);
                    insert.setLong(2, row * 3);
                    insert.setBytes(3, randomBytes(row, 100));
                    insert.addBatch();
                }
                insert.executeBatch();
            }
        }
    }

    private static byte[] randomBytes(long seed, int length) {
        byte[] bytes = new byte[length];
        new SplittableRandom(seed).nextBytes(bytes);
        return bytes;
    }

    private static void check(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }
}
